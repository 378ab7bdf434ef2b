"""Flows: distributions that an ODE carries from a simple base to the data."""

from .base import StandardNormal as StandardNormal
from .cnf import CNF as CNF
from .cnf import Flowed as Flowed
from .concat_squash import ConcatSquash as ConcatSquash
from .concat_squash import ConcatSquashField as ConcatSquashField
from .distributions import FlowDistribution as FlowDistribution
from .distributions import FlowTransform as FlowTransform
from .divergences import ClosedForm as ClosedForm
from .divergences import Divergence as Divergence
from .divergences import ExactDivergence as ExactDivergence
from .divergences import Hutchinson as Hutchinson
from .divergences import HutchPlusPlus as HutchPlusPlus
from .divergences import Rate as Rate
from .hamiltonian_field import HamiltonianField as HamiltonianField
from .matching import FlowMatching as FlowMatching
from .objectives import reverse_kl as reverse_kl
from .planar_field import PlanarField as PlanarField
from .planar_flow import PlanarFlow as PlanarFlow
from .regularizers import JacobianNorm as JacobianNorm
from .regularizers import KineticEnergy as KineticEnergy
from .regularizers import Regularizer as Regularizer
from .sampler import Sampler as Sampler
