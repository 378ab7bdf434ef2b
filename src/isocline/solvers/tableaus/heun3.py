"""Heun's method of order 3."""

from ..tableau import Tableau, rationals

HEUN3 = Tableau(
    name="Heun3",
    order=3,
    reference=(
        "K. Heun, Neue Methoden zur approximativen Integration der Differentialgleichungen "
        "einer unabhaengigen Veraenderlichen, Z. Math. Phys. 45 (1900); Hairer, Norsett and "
        "Wanner, Solving Ordinary Differential Equations I (1993), table II.1.1"
    ),
    a=((), rationals("1/3"), rationals(0, "2/3")),
    b=rationals("1/4", 0, "3/4"),
    c=rationals(0, "1/3", "2/3"),
    # b_3 = theta^2 / (2 c_3), b_1 = theta - b_3: of order 2, and b at the end.
    interpolant=(rationals(1, "-3/4"), (0, 0), rationals(0, "3/4")),
    dense_order=2,
)
