"""Solvers: protocols, the explicit family, and a registry by name.

A new explicit Runge-Kutta method is one table in `tableaus/`; the registry finds it. The line
here gives it a public name.
"""

from .alf import ALF as ALF
from .base import DensePiece as DensePiece
from .base import Memory as Memory
from .base import Solver as Solver
from .base import Step as Step
from .base import Stepper as Stepper
from .explicit import ExplicitRungeKutta as ExplicitRungeKutta
from .external import BLACK_BOXES as BLACK_BOXES
from .external import CVODE as CVODE
from .external import Answer as Answer
from .external import BlackBox as BlackBox
from .external import SciPy as SciPy
from .implicit import ImplicitRungeKutta as ImplicitRungeKutta
from .multistep import Adams as Adams
from .multistep import AdamsBashforth as AdamsBashforth
from .multistep import AdamsMoulton as AdamsMoulton
from .registry import SOLVERS as SOLVERS
from .registry import by_name as by_name
from .reversible import Reversible as Reversible
from .stabilised import RKC as RKC
from .symplectic import KahanLi8 as KahanLi8
from .symplectic import Leapfrog as Leapfrog
from .symplectic import Yoshida4 as Yoshida4
from .symplectic import Yoshida6 as Yoshida6
from .tableau import Tableau as Tableau
from .trainable import TrainableRungeKutta as TrainableRungeKutta
from .trainable import TrainableTableau as TrainableTableau

Euler = SOLVERS["euler"]
Fehlberg2 = SOLVERS["fehlberg2"]
Heun = SOLVERS["heun"]
HeunEuler = SOLVERS["heuneuler"]
Midpoint = SOLVERS["midpoint"]
Ralston = SOLVERS["ralston"]
Bosh3 = SOLVERS["bosh3"]
Heun3 = SOLVERS["heun3"]
RDPK3SpFSAL35 = SOLVERS["rdpk3spfsal35"]
SSPRK432 = SOLVERS["ssprk432"]
RK38 = SOLVERS["rk38"]
RK4 = SOLVERS["rk4"]
BS5 = SOLVERS["bs5"]
Dopri5 = SOLVERS["dopri5"]
Dopri5Shampine = SOLVERS["dopri5shampine"]
Tsit5 = SOLVERS["tsit5"]
Vern6 = SOLVERS["vern6"]
Vern7 = SOLVERS["vern7"]
DOP853 = SOLVERS["dop853"]
Dopri8 = SOLVERS["dopri8"]
Vern8 = SOLVERS["vern8"]
Vern9 = SOLVERS["vern9"]

ImplicitEuler = SOLVERS["impliciteuler"]
ImplicitMidpoint = SOLVERS["implicitmidpoint"]
SDIRK2 = SOLVERS["sdirk2"]
Trapezoid = SOLVERS["trapezoid"]
TRBDF2 = SOLVERS["trbdf2"]
RadauIIA3 = SOLVERS["radauiia3"]
GaussLegendre4 = SOLVERS["gausslegendre4"]
RadauIIA5 = SOLVERS["radauiia5"]
GaussLegendre6 = SOLVERS["gausslegendre6"]
