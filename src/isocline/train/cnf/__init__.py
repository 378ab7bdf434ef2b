"""Continuous normalizing flows: trained, sampled, and their densities drawn.

Only the settings are imported here, which are light; `run.train_cnf`, `sample.sample_run` and
`density.measure_density` bring Lightning and matplotlib with them.
"""

from .config import CnfConfig as CnfConfig
from .config import DensityConfig as DensityConfig
from .config import SampleConfig as SampleConfig
