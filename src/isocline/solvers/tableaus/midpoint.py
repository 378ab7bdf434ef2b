"""The explicit midpoint method."""

from ..tableau import Tableau, rationals

MIDPOINT = Tableau(
    name="Midpoint",
    order=2,
    reference=(
        "C. Runge, Ueber die numerische Aufloesung von Differentialgleichungen, Math. Ann. 46 "
        "(1895); Hairer, Norsett and Wanner, Solving ODEs I (1993), section II.1"
    ),
    a=((), rationals("1/2")),
    b=(0, 1),
    c=rationals(0, "1/2"),
    # b_2 = theta^2 / (2 c_2), b_1 = theta - b_2: the only quadratic one of order 2.
    interpolant=((1, -1), (0, 1)),
    dense_order=2,
)
