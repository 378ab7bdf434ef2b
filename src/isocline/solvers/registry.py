"""Every solver by its lower-case name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from ..errors import InputError
from .base import Solver
from .explicit import explicit
from .tableaus import TABLEAUS

__all__ = ["SOLVERS", "by_name"]

_OTHERS: tuple[type[Solver], ...] = ()
"""Solver classes that are not made from an explicit table; each works without arguments."""


def _by_order(classes: list[type[Solver]]) -> dict[str, type[Solver]]:
    named = {cls.__name__.lower(): cls for cls in classes}
    return dict(sorted(named.items(), key=lambda item: (item[1]().order, item[0])))


SOLVERS: dict[str, type[Solver]] = _by_order([*map(explicit, TABLEAUS.values()), *_OTHERS])
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
    near = difflib.get_close_matches(plain, SOLVERS, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]!r}?" if near else ""
    raise InputError("solver", repr(name), f"one of {', '.join(SOLVERS)}", hint)
