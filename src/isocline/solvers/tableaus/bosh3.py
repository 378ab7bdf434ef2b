"""Bogacki and Shampine's pair of orders 3(2)."""

from ..tableau import Tableau, rationals

BOSH3 = Tableau(
    name="Bosh3",
    order=3,
    reference=(
        "P. Bogacki and L. F. Shampine, A 3(2) Pair of Runge-Kutta Formulas, Appl. Math. Lett. 2 "
        "(1989), 321-325; as in SciPy, integrate/_ivp/rk.py, RK23"
    ),
    a=(
        (),
        rationals("1/2"),
        rationals(0, "3/4"),
        rationals("2/9", "1/3", "4/9"),
    ),
    b=rationals("2/9", "1/3", "4/9", 0),
    c=rationals(0, "1/2", "3/4", 1),
    error=(rationals("-5/72", "1/12", "1/9", "-1/8"),),
    error_order=2,
    # The cubic Hermite polynomial through y, k_1, y1 and k_4 = f(t1, y1).
    interpolant=(
        rationals(1, "-4/3", "5/9"),
        rationals(0, 1, "-2/3"),
        rationals(0, "4/3", "-8/9"),
        rationals(0, -1, 1),
    ),
    dense_order=3,
)
