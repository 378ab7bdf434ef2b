"""Fehlberg's pair of orders 1(2), advanced with its second-order solution."""

from ..tableau import Tableau, rationals

FEHLBERG2 = Tableau(
    name="Fehlberg2",
    order=2,
    reference=(
        "E. Fehlberg, Low-order classical Runge-Kutta formulas with stepsize control and their "
        "application to some heat transfer problems, NASA Technical Report R-315 (1969), RK1(2); "
        "as in torchdiffeq, fehlberg2.py"
    ),
    a=((), rationals("1/2"), rationals("1/256", "255/256")),
    b=rationals("1/512", "255/256", "1/512"),
    c=rationals(0, "1/2", 1),
    # Fehlberg's companion, b + k_1/512 - k_3/512, is of order 1 and so near to b that its distance
    # says nothing of the error of b: solutions miss by 250 times the tolerance. Any multiple of
    # the distance belongs to a companion of order 1; fifty times of it hold the tolerance.
    error=(rationals("-50/512", 0, "50/512"),),
    error_order=1,
    # b_j(theta) = theta delta_j1 + theta^2 (b_j - delta_j1): of order 2, for sum_j b_j c_j = 1/2.
    interpolant=(rationals(1, "-511/512"), rationals(0, "255/256"), rationals(0, "1/512")),
    dense_order=2,
)
