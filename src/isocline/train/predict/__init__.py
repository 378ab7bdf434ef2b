"""Trained models of time series in use: `isocline predict`.

Only the settings are imported here, which are light.
"""

from .config import PredictConfig as PredictConfig
