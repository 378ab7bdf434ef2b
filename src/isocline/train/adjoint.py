"""Adjoints by the names that settings give them."""

from __future__ import annotations

from ..adjoints import Adjoint, Backsolve, Checkpointed, Direct
from .config import AdjointName

__all__ = ["make_adjoint"]


def make_adjoint(
    name: AdjointName, slots: int | None = None, graph_memory: int | None = None
) -> Adjoint:
    """Make the adjoint called `name`.

    Args:
        name: Which.
        slots: States that the checkpointed one keeps; ``None`` for all.
        graph_memory: MiB of graphs that it keeps; ``None`` for its own default.
    """
    if name == "direct":
        return Direct()
    if name == "backsolve":
        return Backsolve()
    if graph_memory is None:
        return Checkpointed(slots=slots)
    return Checkpointed(slots=slots, graph_budget=graph_memory * 2**20)
