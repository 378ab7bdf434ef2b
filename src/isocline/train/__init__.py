"""Training runs. Needs ``isocline[train]``.

The driver (`run`, `trainer`, `rundir`, `history`, `report`) serves every kind of run; what a kind
trains and how it is measured stands in a package of its own: `odenet`, `cnf`, `latent_ode`,
`neural_cde`. What runs on time series share is in `series`; `predict` uses their models. Only the
settings are imported here, which are light: the rest brings Lightning and matplotlib with it.
"""

from .cnf import CnfConfig as CnfConfig
from .cnf import DensityConfig as DensityConfig
from .cnf import SampleConfig as SampleConfig
from .errors import ConfigError as ConfigError
from .errors import TrainingError as TrainingError
from .latent_ode import LatentOdeConfig as LatentOdeConfig
from .neural_cde import NeuralCdeConfig as NeuralCdeConfig
from .odenet import EvaluateConfig as EvaluateConfig
from .odenet import OdenetConfig as OdenetConfig
from .predict import PredictConfig as PredictConfig
