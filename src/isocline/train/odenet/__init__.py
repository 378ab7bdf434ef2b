"""Image classifiers: the ODE-Net of the paper and its rivals, trained and evaluated.

Only the settings are imported here, which are light; `run.train_odenet` and `evaluate.evaluate_run`
bring Lightning and matplotlib with them.
"""

from .config import EvaluateConfig as EvaluateConfig
from .config import OdenetConfig as OdenetConfig
