"""Data sets, as tensors in memory. Needs ``isocline[train]``."""

from .digits import load_digits as load_digits
from .errors import DataError as DataError
from .idx import read_idx as read_idx
from .images import Batches as Batches
from .images import ImageSet as ImageSet
from .images import ImageSplits as ImageSplits
from .images import Slices as Slices
from .images import random_crop as random_crop
from .mnist import load_mnist as load_mnist
