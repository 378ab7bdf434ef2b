"""Recurrences by the names that settings give them."""

from __future__ import annotations

from ...nn import GRUD, ODERNN, RNN, Recurrence

__all__ = ["make_recurrence"]


def make_recurrence(name: str, features: int, hidden: int) -> Recurrence:
    """Make a recurrence.

    Args:
        name: ``ode-rnn``, ``gru-d``, ``rnn-dt`` (a GRU that sees the times between rows), or
            ``rnn`` (one that does not).
        features: Features of a row.
        hidden: Size of the hidden state.
    """
    if name == "ode-rnn":
        return ODERNN(features, hidden)
    if name == "gru-d":
        return GRUD(features, hidden)
    return RNN(features, hidden, time=name == "rnn-dt")
