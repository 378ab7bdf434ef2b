"""Heun's method of order 2 with Euler's as its companion: the pair Heun-Euler 2(1)."""

from ..tableau import Tableau, rationals

HEUN_EULER = Tableau(
    name="HeunEuler",
    order=2,
    reference=(
        "K. Heun, Neue Methoden zur approximativen Integration der Differentialgleichungen "
        "einer unabhaengigen Veraenderlichen, Z. Math. Phys. 45 (1900), with the step of Euler "
        "that its first stage takes; as in SUNDIALS, ARKODE_HEUN_EULER_2_1_2"
    ),
    a=((), (1,)),
    b=rationals("1/2", "1/2"),
    c=(0, 1),
    error=(rationals("-1/2", "1/2"),),
    error_order=1,
    # b_2 = theta^2 / (2 c_2), b_1 = theta - b_2: the only quadratic one of order 2.
    interpolant=(rationals(1, "-1/2"), rationals(0, "1/2")),
    dense_order=2,
)
