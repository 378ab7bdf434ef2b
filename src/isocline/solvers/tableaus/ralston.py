"""Ralston's method of order 2: two stages with the least bound on the truncation error."""

from ..tableau import Tableau, rationals

RALSTON = Tableau(
    name="Ralston",
    order=2,
    reference=(
        "A. Ralston, Runge-Kutta Methods with Minimum Error Bounds, Math. Comp. 16 (1962), 431-437"
    ),
    a=((), rationals("2/3")),
    b=rationals("1/4", "3/4"),
    c=rationals(0, "2/3"),
    # b_2 = theta^2 / (2 c_2), b_1 = theta - b_2: the only quadratic one of order 2.
    interpolant=(rationals(1, "-3/4"), rationals(0, "3/4")),
    dense_order=2,
)
