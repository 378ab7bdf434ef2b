"""Recurrences by the names that settings give them."""

from __future__ import annotations

from ...nn import GRUD, ODERNN, RNN, Recurrence
from .space import SeriesSpace

__all__ = ["make_recurrence"]


def make_recurrence(name: str, space: SeriesSpace, hidden: int) -> Recurrence:
    """Make a recurrence for series of a space.

    Args:
        name: ``ode-rnn``, ``gru-d``, ``rnn-dt`` (a GRU that sees the times between rows), or
            ``rnn`` (one that does not).
        space: Where the series live.
        hidden: Size of the hidden state.
    """
    if name == "ode-rnn":
        return ODERNN(space.width, hidden)
    if name == "gru-d":
        return GRUD(space.width, hidden)
    return RNN(space.width, hidden, time=name == "rnn-dt", mask=not space.complete, unit=space.gap)
