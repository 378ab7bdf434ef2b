"""Dormand and Prince's pair of orders 5(4), with Shampine's interpolant of order 4."""

from ..tableau import Tableau, rationals

DOPRI5 = Tableau(
    name="Dopri5",
    order=5,
    reference=(
        "J. R. Dormand and P. J. Prince, A family of embedded Runge-Kutta formulae, J. Comput. "
        "Appl. Math. 6 (1980), 19-26, RK5(4)7M; interpolant: L. F. Shampine, Some Practical "
        "Runge-Kutta Formulas, Math. Comp. 46 (1986), 135-150, with the optimal c_6; as in SciPy, "
        "integrate/_ivp/rk.py, RK45, and Hairer's dopri5.f"
    ),
    a=(
        (),
        rationals("1/5"),
        rationals("3/40", "9/40"),
        rationals("44/45", "-56/15", "32/9"),
        rationals("19372/6561", "-25360/2187", "64448/6561", "-212/729"),
        rationals("9017/3168", "-355/33", "46732/5247", "49/176", "-5103/18656"),
        rationals("35/384", 0, "500/1113", "125/192", "-2187/6784", "11/84"),
    ),
    b=rationals("35/384", 0, "500/1113", "125/192", "-2187/6784", "11/84", 0),
    c=rationals(0, "1/5", "3/10", "4/5", "8/9", 1, 1),
    error=(rationals("71/57600", 0, "-71/16695", "71/1920", "-17253/339200", "22/525", "-1/40"),),
    error_order=4,
    interpolant=(
        rationals(
            1,
            "-8048581381/2820520608",
            "8663915743/2820520608",
            "-12715105075/11282082432",
        ),
        (0, 0, 0, 0),
        rationals(
            0,
            "131558114200/32700410799",
            "-68118460800/10900136933",
            "87487479700/32700410799",
        ),
        rationals(
            0,
            "-1754552775/470086768",
            "14199869525/1410260304",
            "-10690763975/1880347072",
        ),
        rationals(
            0,
            "127303824393/49829197408",
            "-318862633887/49829197408",
            "701980252875/199316789632",
        ),
        rationals(
            0,
            "-282668133/205662961",
            "2019193451/616988883",
            "-1453857185/822651844",
        ),
        rationals(
            0,
            "40617522/29380423",
            "-110615467/29380423",
            "69997945/29380423",
        ),
    ),
    dense_order=4,
)
