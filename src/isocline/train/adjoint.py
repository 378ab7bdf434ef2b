"""Adjoints by the names that settings give them."""

from __future__ import annotations

from ..adjoints import Adjoint, Backsolve, Checkpointed, Direct
from .config import AdjointName

__all__ = ["make_adjoint"]


def make_adjoint(name: AdjointName, slots: int | None = None) -> Adjoint:
    """Make the adjoint called `name`; `slots` is for the checkpointed one."""
    if name == "direct":
        return Direct()
    if name == "backsolve":
        return Backsolve()
    return Checkpointed(slots=slots)
