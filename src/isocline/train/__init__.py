"""Training runs. Needs ``isocline[train]``.

Only the settings are imported here, which are light; `train.run.train_odenet` and
`train.evaluate.evaluate_run` bring Lightning and matplotlib with them.
"""

from .config import EvaluateConfig as EvaluateConfig
from .config import OdenetConfig as OdenetConfig
from .errors import ConfigError as ConfigError
from .errors import TrainingError as TrainingError
