"""Implicit Runge-Kutta methods: Gauss, Radau IIA, and diagonally implicit ones of order two.

Hairer and Wanner (1996) stands for E. Hairer and G. Wanner, "Solving Ordinary Differential
Equations II", 2nd edition. Those that SUNDIALS has agree with its `arkode_butcher_dirk.def`.
"""

from __future__ import annotations

from fractions import Fraction

from ..tableau import hermite
from .tableau import ImplicitTableau, interpolatory, root

__all__ = ["IMPLICIT_TABLEAUS"]

_HALF = Fraction(1, 2)

IMPLICIT_EULER = ImplicitTableau(
    name="ImplicitEuler",
    order=1,
    reference=(
        "Hairer and Wanner (1996), IV.5, table 5.5: the method of Radau IIA with one stage, "
        "L-stable"
    ),
    a=((1,),),
    b=(1,),
    c=(1,),
    interpolant=interpolatory((1,)),
    dense_order=1,
)

IMPLICIT_MIDPOINT = ImplicitTableau(
    name="ImplicitMidpoint",
    order=2,
    reference=(
        "Hairer and Wanner (1996), IV.5, table 5.1 with s = 1: the method of Gauss with one stage, "
        "A-stable and symplectic"
    ),
    a=((_HALF,),),
    b=(1,),
    c=(_HALF,),
    interpolant=interpolatory((_HALF,)),
    dense_order=1,
)

TRAPEZOID = ImplicitTableau(
    name="Trapezoid",
    order=2,
    reference=(
        "J. Crank and P. Nicolson, Proc. Camb. Phil. Soc. 43 (1947), 50-67; Hairer and Wanner "
        "(1996), IV.5, table 5.7: Lobatto IIIA with two stages, A-stable"
    ),
    a=((0, 0), (_HALF, _HALF)),
    b=(_HALF, _HALF),
    c=(0, 1),
    interpolant=interpolatory((0, 1)),
    dense_order=2,
)


def _gauss_4() -> ImplicitTableau:
    r = root(3)
    c = (_HALF - r / 6, _HALF + r / 6)
    quarter = Fraction(1, 4)
    return ImplicitTableau(
        name="GaussLegendre4",
        order=4,
        reference=(
            "P. C. Hammer and J. W. Hollingsworth, Math. Tables Aids Comput. 9 (1955), 92-96; "
            "Hairer and Wanner (1996), IV.5, table 5.1: A-stable and symplectic"
        ),
        a=((quarter, quarter - r / 6), (quarter + r / 6, quarter)),
        b=(_HALF, _HALF),
        c=c,
        interpolant=interpolatory(c),
        dense_order=2,
    )


def _gauss_6() -> ImplicitTableau:
    r = root(15)
    c = (_HALF - r / 10, _HALF, _HALF + r / 10)
    outer, inner = Fraction(5, 36), Fraction(2, 9)
    return ImplicitTableau(
        name="GaussLegendre6",
        order=6,
        reference=(
            "J. Kuntzmann, Z. Angew. Math. Mech. 41 (1961), T28-T31, and J. C. Butcher, Math. "
            "Comp. 18 (1964), 50-64; Hairer and Wanner (1996), IV.5, table 5.2: A-stable and "
            "symplectic"
        ),
        a=(
            (outer, inner - r / 15, outer - r / 30),
            (outer + r / 24, inner, outer - r / 24),
            (outer + r / 30, inner + r / 15, outer),
        ),
        b=(2 * outer, 2 * inner, 2 * outer),
        c=c,
        interpolant=interpolatory(c),
        dense_order=3,
    )


def _radau_3() -> ImplicitTableau:
    c = (Fraction(1, 3), 1)
    b = (Fraction(3, 4), Fraction(1, 4))
    return ImplicitTableau(
        name="RadauIIA3",
        order=3,
        reference=(
            "O. Axelsson, A class of A-stable methods, BIT 9 (1969), 185-199; Hairer and Wanner "
            "(1996), IV.5, table 5.5: L-stable"
        ),
        a=((Fraction(5, 12), Fraction(-1, 12)), b),
        b=b,
        c=c,
        interpolant=interpolatory(c),
        dense_order=2,
    )


def _radau_5() -> ImplicitTableau:
    r = root(6)
    c = ((4 - r) / 10, (4 + r) / 10, 1)
    b = ((16 - r) / 36, (16 + r) / 36, Fraction(1, 9))
    return ImplicitTableau(
        name="RadauIIA5",
        order=5,
        reference=(
            "O. Axelsson, A class of A-stable methods, BIT 9 (1969), 185-199; Hairer and Wanner "
            "(1996), IV.5, table 5.6: L-stable"
        ),
        a=(
            ((88 - 7 * r) / 360, (296 - 169 * r) / 1800, (-2 + 3 * r) / 225),
            ((296 + 169 * r) / 1800, (88 + 7 * r) / 360, (-2 - 3 * r) / 225),
            b,
        ),
        b=b,
        c=c,
        interpolant=interpolatory(c),
        dense_order=3,
    )


def _sdirk_2() -> ImplicitTableau:
    gamma = 1 - root(2) / 2
    c = (gamma, 1)
    b = (1 - gamma, gamma)
    return ImplicitTableau(
        name="SDIRK2",
        order=2,
        reference=(
            "R. Alexander, Diagonally implicit Runge-Kutta methods for stiff ODEs, SIAM J. Numer. "
            "Anal. 14 (1977), 1006-1021: L-stable"
        ),
        a=((gamma, 0), b),
        b=b,
        c=c,
        interpolant=interpolatory(c),
        dense_order=2,
    )


def _trbdf_2() -> ImplicitTableau:
    gamma, outer = 1 - root(2) / 2, root(2) / 4
    b = (outer, outer, gamma)
    return ImplicitTableau(
        name="TRBDF2",
        order=2,
        reference=(
            "R. E. Bank et al., Transient simulation of silicon devices and circuits, IEEE Trans. "
            "CAD 4 (1985), 436-451; M. E. Hosea and L. F. Shampine, Analysis and implementation "
            "of TR-BDF2, Appl. Numer. Math. 20 (1996), 21-37: a trapezoid, then a backward "
            "difference, L-stable"
        ),
        a=((0, 0, 0), (gamma, gamma, 0), b),
        b=b,
        c=(0, 2 * gamma, 1),
        interpolant=hermite(b),
        dense_order=2,
    )


IMPLICIT_TABLEAUS: dict[str, ImplicitTableau] = {
    table.name.lower(): table
    for table in (
        IMPLICIT_EULER,
        IMPLICIT_MIDPOINT,
        TRAPEZOID,
        _gauss_4(),
        _gauss_6(),
        _radau_3(),
        _radau_5(),
        _sdirk_2(),
        _trbdf_2(),
    )
}
"""Tables by the lower-case name of their solver."""
