"""isocline: differentiable ODE solving for PyTorch.

After "Neural Ordinary Differential Equations" (Chen, Rubanova, Bettencourt and Duvenaud, 2018).
`solve` is the front door; `isocline.nn` has the layers built on it.
"""

from . import nn as nn
from . import solvers as solvers
from ._solve import solve as solve
from .adjoints import Adjoint as Adjoint
from .adjoints import Backsolve as Backsolve
from .adjoints import Checkpointed as Checkpointed
from .adjoints import Direct as Direct
from .controllers import PI as PI
from .controllers import PID as PID
from .controllers import Constant as Constant
from .controllers import Controller as Controller
from .controllers import I as I
from .errors import GradientError as GradientError
from .errors import InputError as InputError
from .errors import InputTypeError as InputTypeError
from .errors import IsoclineError as IsoclineError
from .errors import MaxStepsError as MaxStepsError
from .errors import MissingLibraryError as MissingLibraryError
from .errors import NonFiniteError as NonFiniteError
from .errors import SolveError as SolveError
from .errors import StepUnderflowError as StepUnderflowError
from .events import Event as Event
from .events import Occurrence as Occurrence
from .problem import SaveAt as SaveAt
from .solution import Solution as Solution
from .solution import Statistics as Statistics
from .solution import Status as Status
from .solvers import BS5 as BS5
from .solvers import DOP853 as DOP853
from .solvers import RK4 as RK4
from .solvers import RK38 as RK38
from .solvers import SSPRK432 as SSPRK432
from .solvers import Bosh3 as Bosh3
from .solvers import Dopri5 as Dopri5
from .solvers import Dopri5Shampine as Dopri5Shampine
from .solvers import Dopri8 as Dopri8
from .solvers import Euler as Euler
from .solvers import Fehlberg2 as Fehlberg2
from .solvers import Heun as Heun
from .solvers import Heun3 as Heun3
from .solvers import HeunEuler as HeunEuler
from .solvers import Midpoint as Midpoint
from .solvers import OwrenZen5 as OwrenZen5
from .solvers import Ralston as Ralston
from .solvers import RDPK3SpFSAL35 as RDPK3SpFSAL35
from .solvers import Solver as Solver
from .solvers import Tsit5 as Tsit5
from .solvers import Vern6 as Vern6
from .solvers import Vern7 as Vern7
from .solvers import Vern8 as Vern8
from .solvers import Vern9 as Vern9

__version__ = "0.1.0"
