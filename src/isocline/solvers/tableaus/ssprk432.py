"""The optimal strong-stability-preserving method of four stages and order 3, with a companion.

A step of it is a convex combination of steps of Euler's method, each of half the length. So
whatever bound Euler's method keeps at some step length (positivity, a maximum, total variation),
this one keeps at twice that length; and so does its interpolant.
"""

from ..tableau import Tableau, rationals

SSPRK432 = Tableau(
    name="SSPRK432",
    order=3,
    reference=(
        "J. F. B. M. Kraaijevanger, Contractivity of Runge-Kutta methods, BIT 31 (1991), 482-528; "
        "companion of order 2: I. Fekete, S. Conde and J. N. Shadid, Embedded pairs for optimal "
        "explicit strong stability preserving Runge-Kutta methods, J. Comput. Appl. Math. 412 "
        "(2022), 114325; interpolant: D. I. Ketcheson, L. Loczi, A. Jangabylova and A. Kusmanov, "
        "Dense Output for Strong Stability Preserving Runge-Kutta Methods, J. Sci. Comput. 71 "
        "(2017), 944-958"
    ),
    a=((), rationals("1/2"), rationals("1/2", "1/2"), rationals("1/6", "1/6", "1/6")),
    b=rationals("1/6", "1/6", "1/6", "1/2"),
    c=rationals(0, "1/2", 1, "1/2"),
    # Four times the distance to the published companion, which is also that to a companion of
    # order 2: with the distance itself, solutions miss by up to 130 times the tolerance.
    error=(rationals("-1/3", "-1/3", "-1/3", 1),),
    error_order=2,
    # (1 - theta^2) y + theta^2 y1 + h (theta - theta^2) k_1, a convex combination of y1 and of a
    # step of Euler over h theta / (1 + theta), which is no longer than those that y1 is made of.
    interpolant=(
        rationals(1, "-5/6"),
        rationals(0, "1/6"),
        rationals(0, "1/6"),
        rationals(0, "1/2"),
    ),
    dense_order=2,
)
