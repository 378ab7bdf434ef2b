"""Neural controlled differential equations: a state driven by a path through the observations."""

from .cde_field import CDEField as CDEField
from .neural_cde import NeuralCDE as NeuralCDE
from .neural_cde import PathName as PathName
from .path import CubicPath as CubicPath
from .splines import hermite as hermite
from .splines import linear as linear
from .splines import natural_cubic as natural_cubic
