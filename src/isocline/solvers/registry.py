"""Every solver by its lower-case name."""

from __future__ import annotations

import difflib

from ..errors import InputError
from .explicit import ExplicitRungeKutta, explicit
from .tableaus import TABLEAUS

__all__ = ["SOLVERS", "by_name"]

SOLVERS: dict[str, type[ExplicitRungeKutta]] = {
    name: explicit(tableau) for name, tableau in TABLEAUS.items()
}
"""Solver classes by lower-case name, in the order of `TABLEAUS`: by order, then name."""


def by_name(name: str) -> ExplicitRungeKutta:
    """The solver called `name`, in any case.

    Raises:
        InputError: for an unknown name; the message gives the nearest match.
    """
    found = SOLVERS.get(name.lower())
    if found is not None:
        return found()
    near = difflib.get_close_matches(name.lower(), SOLVERS, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]!r}?" if near else ""
    raise InputError("solver", repr(name), f"one of {', '.join(SOLVERS)}", hint)
