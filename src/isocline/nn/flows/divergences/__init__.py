"""Ways to the divergence of a field, one file each."""

from .base import Divergence as Divergence
from .base import FlowField as FlowField
from .base import Rate as Rate
from .closed_form import ClosedForm as ClosedForm
from .exact import ExactDivergence as ExactDivergence
from .hutch_plus_plus import HutchPlusPlus as HutchPlusPlus
from .hutchinson import Hutchinson as Hutchinson
