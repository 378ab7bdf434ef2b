"""Gradients through Adams methods: a history is carried on, and times move the weights.

Every adjoint meets every method and output; the quick suite runs a share of the product
(`pairwise`).
"""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.controllers import Decision
from isocline.solvers.multistep.stepper import AdamsStepper

from ..adjoints.adjoint_cases import (
    CHECKPOINTED,
    OUTPUTS,
    Gradients,
    central_differences,
    fresh_inputs,
    gradients_of,
    loss_of,
    mismatches,
)
from ..known import swing

WAYS: dict[str, dict[str, Any]] = {
    "AB4": {"solver": ic.AdamsBashforth(), "dt0": 0.08},
    "AB9": {"solver": ic.AdamsBashforth(9), "dt0": 0.08},
    "AM6": {"solver": ic.AdamsMoulton(6, corrections=2), "dt0": 0.08},
    "Adams": {"solver": ic.Adams(), "rtol": 1e-9, "atol": 1e-9},
    "Adams with rejections": {"solver": ic.Adams(), "rtol": 1e-7, "atol": 1e-7, "dt0": 0.7},
}


@functools.cache
def exact(way: str, output: str, reverse: bool) -> Gradients:
    return gradients_of(OUTPUTS[output], reverse=reverse, adjoint=ic.Direct(), **WAYS[way])


@pytest.mark.pairwise
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("adjoint", CHECKPOINTED)
@pytest.mark.parametrize(
    ("output", "reverse"), [("t1", False), ("t0_ts_t1", True), ("dense_everything", False)]
)
def test_checkpointed_gradients_are_those_of_the_whole_graph(
    way: str, adjoint: str, output: str, reverse: bool
) -> None:
    """Of the start, all times, parameters, arguments and what the field closes over."""
    found = gradients_of(
        OUTPUTS[output], reverse=reverse, adjoint=CHECKPOINTED[adjoint], **WAYS[way]
    )
    assert not mismatches(found, exact(way, output, reverse), 1e-11)


def test_what_the_test_above_relies_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of these solves are rejected, and their orders differ."""
    starts, orders = [], []
    original = AdamsStepper.step

    def step(self: AdamsStepper, t: Any, t_next: Any, y: Tensor, memory: Any) -> Any:
        starts.append(float(t))
        orders.append(memory.numbers.order)
        return original(self, t, t_next, y, memory)

    monkeypatch.setattr(AdamsStepper, "step", step)
    with torch.no_grad():
        loss_of(fresh_inputs(), OUTPUTS["t1"], **WAYS["Adams with rejections"])
    assert len(set(starts)) >= 8
    assert len(starts) > len(set(starts)) + 1
    assert len(set(orders)) >= 3


class Frozen(ic.PID):
    """Adaptive steps, whose length no error changes: from stop to stop."""

    def decide(self, h: float, error_ratio: float, state: Any) -> Decision:
        return Decision(True, h, state)


GRID = (0.3, 0.37, 0.45, 0.55, 0.6, 0.66, 0.75, 0.8, 0.87, 0.97, 1.05, 1.15, 1.2, 1.3)
FROZEN: dict[str, tuple[Any, Any]] = {
    "AB5": (ic.AdamsBashforth(5), ic.Constant(stops=GRID)),
    "AM1": (ic.AdamsMoulton(1), ic.Constant(stops=GRID)),
    "AM5": (ic.AdamsMoulton(5, corrections=2), ic.Constant(stops=GRID)),
    "Adams": (ic.Adams(), Frozen(stops=GRID)),
}


@pytest.mark.parametrize(
    ("way", "reverse"),
    [
        pytest.param(way, reverse, marks=[] if (place + reverse) % 2 else [pytest.mark.slow])
        for place, way in enumerate(FROZEN)
        for reverse in (False, True)
    ],
)
def test_gradients_are_finite_differences(way: str, reverse: bool) -> None:
    """The ends move, the grid between does not: the weights of all steps near them move too."""
    solver, controller = FROZEN[way]
    options = {"solver": solver, "controller": controller, "dt0": 1.0}
    output = OUTPUTS["dense_everything"]
    found = gradients_of(output, reverse=reverse, **options)
    coarse, fine = (
        central_differences(
            lambda inputs: loss_of(inputs, output, **options), fresh_inputs(reverse), eps
        )
        for eps in (2e-4, 1e-4)
    )
    expected: Gradients = {}
    for name, value in fine.items():
        rough = coarse[name]
        assert value is not None
        assert rough is not None
        expected[name] = (4 * value - rough) / 3  # an error of the fourth order is left
    assert not mismatches(found, expected, 1e-9, atol=1e-10)


def test_second_derivatives() -> None:
    def end(y0: Tensor) -> Tensor:
        sol = ic.solve(
            swing, y0 * y0, 0.1, 1.3, solver=ic.AdamsMoulton(), adjoint=ic.Direct(), dt0=0.1
        )
        return sol.ys[-1]

    y0 = torch.tensor([1.0, 0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(end, (y0,))
