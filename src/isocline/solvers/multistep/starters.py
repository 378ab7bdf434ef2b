"""One-step methods that begin a history, and stand in where it does not serve."""

from __future__ import annotations

from ..tableau import Tableau
from ..tableaus import TABLEAUS
from .extrapolation import extrapolation

__all__ = ["starter"]

_NAMES = ("euler", "ralston", "bosh3", "rk4", "tsit5", "vern6", "vern7", "dop853", "vern9")


def starter(order: int) -> Tableau:
    """A table of the order of a method, or one more, so that its order holds from the start.

    One order less would do for a few steps; then a polynomial solution would not be exact.
    """
    if order <= len(_NAMES):
        return TABLEAUS[_NAMES[order - 1]]
    return extrapolation(order + order % 2)
