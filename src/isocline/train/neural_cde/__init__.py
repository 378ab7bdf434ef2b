"""Neural CDEs and the recurrent models they are compared with, as classifiers of time series.

Only the settings are imported here, which are light; `run.train_neural_cde` brings Lightning and
matplotlib with it.
"""

from .config import NeuralCdeConfig as NeuralCdeConfig
