"""Symmetric compositions of a symmetric second-order kernel: pure data that checks itself.

One step of length h is a row of steps of that kernel, of the lengths gamma_1 h ... gamma_s h. They
sum to h, and some go backward, which is what raises the order (Hairer, Lubich and Wanner,
"Geometric Numerical Integration", 2006, sections II.4 and V.3.2). The kernel splits the state
into two halves, each of which moves at a rate that depends on the other alone:

    half a step of the outer half, a whole one of the inner half, half a step of the outer half.

What is left to choose is the time at which the rates are taken, if they depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

from .tableau import rationals

__all__ = ["COMPOSITIONS", "Composition", "Stage"]


class Stage(NamedTuple):
    """One evaluation of the field, and what it moves.

    Attributes:
        node: time of the evaluation, as a fraction of the step; in [0, 1].
        half: the half of the state that it moves, 0 or 1.
        weight: by how much of the step.
    """

    node: Fraction
    half: int
    weight: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """A symmetric composition.

    Attributes:
        name: name of the solver class.
        order: order of the composed method.
        reference: author, year, and where in the source the lengths stand.
        leading: gamma_1 ... gamma_(s-1)/2. The one in the middle makes the sum 1, and the others
            mirror these.

    Raises:
        ValueError: on construction, where a kernel's step has its middle outside of the whole step.
    """

    name: str
    order: int
    reference: str
    leading: tuple[Fraction, ...] = ()

    def __post_init__(self) -> None:
        if not all(0 <= middle <= 1 for middle in self.middles):
            raise ValueError(
                f"composition {self.name!r}: the middles {[float(m) for m in self.middles]} of "
                "the kernel's steps must lie in [0, 1], where the field may be evaluated"
            )

    @property
    def lengths(self) -> tuple[Fraction, ...]:
        """All gammas, in order; they sum to 1."""
        middle = 1 - 2 * sum(self.leading, Fraction(0))
        return (*self.leading, middle, *reversed(self.leading))

    @property
    def ends(self) -> tuple[Fraction, ...]:
        """Where the kernel's steps begin and end: from 0 to 1, and perhaps outside in between."""
        return tuple(accumulate(self.lengths, initial=Fraction(0)))

    @property
    def middles(self) -> tuple[Fraction, ...]:
        """The middles of the kernel's steps."""
        return tuple((one + other) / 2 for one, other in pairwise(self.ends))

    @property
    def stays_inside(self) -> bool:
        """Whether all of the kernel's steps end within the whole step."""
        return all(0 <= end <= 1 for end in self.ends)

    def merged(self, outer: int) -> tuple[Stage, ...]:
        """Stages where the outer half moves at the ends of the kernel's steps: 2 s + 1 in all.

        There the end of one step and the start of the next are one stage. The inner half moves in
        the middles. Let a clock go with each half, set by that half's moves: each rate is taken at
        the time of the half that it depends on, so this is the same splitting of a larger
        autonomous system, of the same order. An end outside of the step is put to the step's own,
        which is right only where the outer half's rate does not depend on time.
        """
        halves = [Fraction(0), *(length / 2 for length in self.lengths), Fraction(0)]
        moves = [one + other for one, other in pairwise(halves)]
        outers = [
            Stage(min(max(end, Fraction(0)), Fraction(1)), outer, move)
            for end, move in zip(self.ends, moves, strict=True)
        ]
        inners = [
            Stage(middle, 1 - outer, length)
            for middle, length in zip(self.middles, self.lengths, strict=True)
        ]
        pairs = zip(outers, inners, strict=False)
        return (*chain.from_iterable(pairs), outers[-1])

    def frozen(self, outer: int) -> tuple[Stage, ...]:
        """Stages that take all rates of a kernel's step at its middle: 3 s in all.

        Time moves on between, half before and half after: a splitting into three, which is
        symmetric as well, and so of the same order, and which looks at no time outside.
        """
        return tuple(
            Stage(middle, half, move)
            for middle, length in zip(self.middles, self.lengths, strict=True)
            for half, move in ((outer, length / 2), (1 - outer, length), (outer, length / 2))
        )


LEAPFROG = Composition(
    name="Leapfrog",
    order=2,
    reference=(
        "Verlet (1967), Computer 'experiments' on classical fluids I, Physical Review 159, in the "
        "velocity form of Swope, Andersen, Berens and Wilson (1982), J. Chemical Physics 76"
    ),
)

# 1 / (2 - 2^(1/3)), to 40 digits.
YOSHIDA4 = Composition(
    name="Yoshida4",
    order=4,
    reference=(
        "Yoshida (1990), Construction of higher order symplectic integrators, Physics Letters A "
        "150, equation 2.11; Forest and Ruth (1990), Physica D 43"
    ),
    leading=rationals("1.3512071919596576340476878089714608269220"),
)

# The 14 digits of Yoshida's table, continued by solving the order conditions: the digits of
# SUNDIALS (`arkode_sprk.c`), which satisfy them to 1e-40.
YOSHIDA6 = Composition(
    name="Yoshida6",
    order=6,
    reference=(
        "Yoshida (1990), Construction of higher order symplectic integrators, Physics Letters A "
        "150, table 1, solution A"
    ),
    leading=rationals(
        "0.7845136104775572638194976338663498757768",
        "0.2355732133593581336847931829785346016865",
        "-1.177679984178871006946415680964315734639",
    ),
)

KAHAN_LI8 = Composition(
    name="KahanLi8",
    order=8,
    reference=(
        "Kahan and Li (1997), Composition constants for raising the orders of unconventional "
        "schemes for ordinary differential equations, Mathematics of Computation 66, s17odr8a; "
        "Hairer, Lubich and Wanner (2006), Geometric Numerical Integration, section V.3.2"
    ),
    leading=rationals(
        "0.13020248308889008087881763",
        "0.56116298177510838456196441",
        "-0.38947496264484728640807860",
        "0.15884190655515560089621075",
        "-0.39590389413323757733623154",
        "0.18453964097831570709183254",
        "0.25837438768632204729397911",
        "0.29501172360931029887096624",
    ),
)

COMPOSITIONS = {c.name.lower(): c for c in (LEAPFROG, YOSHIDA4, YOSHIDA6, KAHAN_LI8)}
"""Every composition by its lower-case name."""
