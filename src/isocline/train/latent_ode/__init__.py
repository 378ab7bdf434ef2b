"""Latent ODEs and the recurrent models they are compared with, fitted to time series.

Only the settings are imported here, which are light; `run.train_latent_ode` brings Lightning and
matplotlib with it.
"""

from .config import LatentOdeConfig as LatentOdeConfig
