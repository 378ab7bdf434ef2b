"""Owren and Zennaro's pair of orders 5(4), whose interpolant of order 5 costs nothing more."""

from ..tableau import Tableau, matrix

_A = matrix("""
;
1/6;
1/16 3/16;
1/4 -3/4 1;
-3/4 15/4 -3 1/2;
369/1372 -243/343 297/343 1485/9604 297/4802;
-133/4512 1113/6016 7945/16544 -12845/24064 -315/24064 156065/198528;
83/945 0 248/825 41/180 1/36 2401/38610 6016/20475;
""")

OWREN_ZEN5 = Tableau(
    name="OwrenZen5",
    order=5,
    reference=(
        "B. Owren and M. Zennaro, Derivation of efficient, continuous, explicit Runge-Kutta "
        "methods, SIAM J. Sci. Stat. Comput. 13 (1992), 1488-1501; as in OrdinaryDiffEq.jl, "
        "low_order_rk_tableaus.jl"
    ),
    a=_A,
    b=(*_A[-1], 0),
    c=matrix("""
0 1/6 1/4 1/2 1/2 9/14 7/8 1;
""")[0],
    error=matrix("""
188/945 0 -752/825 89/45 1/9 -32242/19305 6016/20475 0;
"""),
    error_order=4,
    interpolant=matrix("""
1 -3292/819 17893/2457 -4969/819 596/315;
0 0 0 0 0;
0 5112/715 -43568/2145 1344/65 -1984/275;
0 -123/52 3161/234 -1465/78 118/15;
0 -63/52 1061/234 -413/78 2;
0 -40817/33462 60025/50193 2401/1521 -9604/6435;
0 18048/5915 -637696/53235 96256/5915 -48128/6825;
0 -18/13 75/13 -109/13 4;
"""),
    dense_order=5,
)
