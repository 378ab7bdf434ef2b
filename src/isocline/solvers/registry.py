"""Every solver by its lower-case name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from ..errors import InputError
from .alf import ALF
from .base import Solver
from .external import BLACK_BOXES, Boxed
from .family import EXPLICIT
from .implicit import IMPLICIT
from .multistep import Adams, AdamsBashforth, AdamsMoulton
from .reversible import Reversible
from .stabilised import RKC
from .symplectic import KahanLi8, Leapfrog, Yoshida4, Yoshida6

__all__ = ["SOLVERS", "by_name"]

_OTHERS: tuple[type[Solver], ...] = (
    *(Leapfrog, Yoshida4, Yoshida6, KahanLi8, ALF, Reversible, RKC),
    *(AdamsBashforth, AdamsMoulton, Adams),
)
"""Solver classes that are not made from a table; each works without arguments."""


def _by_order(classes: list[type[Solver]]) -> dict[str, type[Solver]]:
    named = {cls.__name__.lower(): cls for cls in classes}
    return dict(sorted(named.items(), key=lambda item: (item[1]().order, item[0])))


SOLVERS: dict[str, type[Solver]] = _by_order([*EXPLICIT.values(), *IMPLICIT.values(), *_OTHERS])
"""Solver classes by lower-case name, sorted by order, then name."""


def by_name(name: str) -> Solver:
    """The solver called `name` with its default settings; case and underscores do not matter.

    Raises:
        InputError: for an unknown name; the message gives the nearest match.
    """
    plain = name.lower().replace("_", "")
    found: Callable[[], Solver] | None = SOLVERS.get(plain)
    if found is not None:
        return found()
    boxes = {known.replace("_", ""): known for known in BLACK_BOXES}
    if plain in boxes:
        return Boxed(BLACK_BOXES[boxes[plain]]())
    near = difflib.get_close_matches(plain, [*SOLVERS, *BLACK_BOXES], n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]!r}?" if near else ""
    known = f"one of {', '.join(SOLVERS)}, or of other libraries' {', '.join(BLACK_BOXES)}"
    raise InputError("solver", repr(name), known, hint)
