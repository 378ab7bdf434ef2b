"""The classical Runge-Kutta method of order 4."""

from ..tableau import Tableau, rationals

RK4 = Tableau(
    name="RK4",
    order=4,
    reference=(
        "W. Kutta, Beitrag zur naeherungsweisen Integration totaler Differentialgleichungen, "
        "Z. Math. Phys. 46 (1901); interpolant: Hairer, Norsett and Wanner, Solving ODEs I "
        "(1993), section II.6"
    ),
    a=(
        (),
        rationals("1/2"),
        rationals(0, "1/2"),
        (0, 0, 1),
    ),
    b=rationals("1/6", "1/3", "1/3", "1/6"),
    c=rationals(0, "1/2", "1/2", 1),
    interpolant=(
        rationals(1, "-3/2", "2/3"),
        rationals(0, 1, "-2/3"),
        rationals(0, 1, "-2/3"),
        rationals(0, "-1/2", "2/3"),
    ),
    dense_order=3,
)
