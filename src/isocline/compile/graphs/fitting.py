"""Which solves a device can take, and what is asked of it."""

from __future__ import annotations

from ...problem import Plan
from ...solvers.explicit import ExplicitRungeKutta
from ..kinds import Unfit
from ..native.whole import can_drive
from ..passes import Passes
from .formula import RoundRequest

__all__ = ["demand_takeable", "round_request"]


def demand_takeable(plan: Plan) -> None:
    """Raise Unfit where a solve needs the host at every step."""
    if not can_drive(plan):
        raise Unfit(
            "on a GPU, SaveAt(steps=True, dense=True, fn=...) and controllers of your own need the "
            "host at every step: take SaveAt(ts=...) and PID() or Constant()"
        )


def round_request(
    solver: ExplicitRungeKutta, plan: Plan, average: bool, vectors: bool, stages: bool
) -> RoundRequest:
    """What is asked of a program of rounds; see `RoundRequest`."""
    return RoundRequest(
        tableau=solver.tableau,
        controller=plan.controller,
        error_order=solver.error_order,
        average=average,
        vectors=vectors,
        stages=stages,
        passes=Passes(),
    )
