"""Implicit Runge-Kutta methods, for stiff problems and for what the methods of Gauss preserve.

A new method is one table in `tables.py`.
"""

from .solver import IMPLICIT as IMPLICIT
from .solver import ImplicitRungeKutta as ImplicitRungeKutta
from .tableau import ImplicitTableau as ImplicitTableau
