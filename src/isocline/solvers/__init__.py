"""Solvers: protocols, the explicit family, and a registry by name.

A new explicit Runge-Kutta method is one table in `tableaus/`; the registry finds it. The line
here gives it a public name.
"""

from .base import DensePiece as DensePiece
from .base import Memory as Memory
from .base import Solver as Solver
from .base import Step as Step
from .base import Stepper as Stepper
from .explicit import ExplicitRungeKutta as ExplicitRungeKutta
from .registry import SOLVERS as SOLVERS
from .registry import by_name as by_name
from .tableau import Tableau as Tableau

Euler = SOLVERS["euler"]
Midpoint = SOLVERS["midpoint"]
Heun = SOLVERS["heun"]
Ralston = SOLVERS["ralston"]
RK4 = SOLVERS["rk4"]
Bosh3 = SOLVERS["bosh3"]
Dopri5 = SOLVERS["dopri5"]
Tsit5 = SOLVERS["tsit5"]
DOP853 = SOLVERS["dop853"]
