"""What runs on time series share: settings, data sets in the units of a model, batches, scores.

Only the settings are imported here, which are light.
"""

from .config import GENERATED as GENERATED
from .config import FitSettings as FitSettings
from .config import SeriesSettings as SeriesSettings
