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
from .plane import Bounds as Bounds
from .potentials import POTENTIALS as POTENTIALS
from .potentials import Potential as Potential
from .potentials import log_normalizer as log_normalizer
from .seeds import fold_seeds as fold_seeds
from .table_files import read_points as read_points
from .table_files import read_table as read_table
from .table_splits import Scaling as Scaling
from .table_splits import TableSplits as TableSplits
from .table_splits import split_table as split_table
from .tables import Table as Table
from .tables import builtin_table as builtin_table
from .tables import check_width as check_width
from .tables import checked_points as checked_points
from .tables import checked_table as checked_table
from .toy2d import TOY2D as TOY2D
from .toy2d import Toy2D as Toy2D
