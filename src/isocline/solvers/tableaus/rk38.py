"""Kutta's 3/8 rule of order 4."""

from ..tableau import Tableau, rationals

RK38 = Tableau(
    name="RK38",
    order=4,
    reference=(
        "W. Kutta, Beitrag zur naeherungsweisen Integration totaler Differentialgleichungen, "
        "Z. Math. Phys. 46 (1901), 435-453, the 3/8 rule; Hairer, Norsett and Wanner, Solving "
        "Ordinary Differential Equations I (1993), table II.1.2"
    ),
    a=((), rationals("1/3"), rationals("-1/3", 1), (1, -1, 1)),
    b=rationals("1/8", "3/8", "3/8", "1/8"),
    c=rationals(0, "1/3", "2/3", 1),
    # The conditions of order 3 in four stages have one solution, and it ends at b.
    interpolant=(
        rationals(1, "-15/8", 1),
        rationals(0, "15/8", "-3/2"),
        rationals(0, "3/8", 0),
        rationals(0, "-3/8", "1/2"),
    ),
    dense_order=3,
)
