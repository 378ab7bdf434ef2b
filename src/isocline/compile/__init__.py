"""Compiled steps: a step and its gradient as machine code, made ahead of time and kept."""

from .cache import Cache as Cache
from .cache import CacheError as CacheError
from .fitting import compiled as compiled
from .lane_fitting import compiled_samples as compiled_samples
