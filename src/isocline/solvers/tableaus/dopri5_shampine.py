"""Dormand and Prince's method of order 5 with Shampine's error estimate, as torchdiffeq has it."""

from dataclasses import replace

from ..tableau import difference, rationals
from .dopri5 import DOPRI5

_B_HAT = rationals("1951/21600", 0, "22642/50085", "451/720", "-12231/42400", "649/6300", "1/60")

DOPRI5_SHAMPINE = replace(
    DOPRI5,
    name="Dopri5Shampine",
    reference=(
        "J. R. Dormand and P. J. Prince, A family of embedded Runge-Kutta formulae, J. Comput. "
        "Appl. Math. 6 (1980), 19-26, RK5(4)7M; companion of order 4 and interpolant: L. F. "
        "Shampine, Some Practical Runge-Kutta Formulas, Math. Comp. 46 (1986), 135-150; as in "
        "torchdiffeq, dopri5.py"
    ),
    error=(difference(DOPRI5.b, _B_HAT),),
)
