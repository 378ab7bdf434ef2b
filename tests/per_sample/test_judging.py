"""A judge's bound on the lengths to come is never wrong, and exact where it matters."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import isocline as ic
from isocline.integrate.judging import LaneJudge
from isocline.problem import SaveAt
from isocline.samples import SamplePlan

LANES, CRITICAL = 4, 1e-9
RATIOS = st.sampled_from([0.0, 1e-3, 0.5, 1.0, 1.5, 40.0, 1e9, float("inf"), float("nan")])
ROUNDS = st.lists(
    st.tuples(st.lists(RATIOS, min_size=LANES, max_size=LANES), st.integers(0, 2**LANES - 1)),
    min_size=1,
    max_size=40,
)
Rounds = list[tuple[list[float], int]]
CONTROLLERS = [ic.PID(), ic.PI(), ic.PID(safety=0.15), ic.PID(max_step=0.3), ic.Constant()]


def judge_of(controller: Any) -> LaneJudge:
    plan = SamplePlan(
        ic.Dopri5(), controller, 0.0, 1.0, lambda errors: errors.abs().amax(1), None, SaveAt(), 9
    )
    stepper: Any = SimpleNamespace(combine=None)
    return LaneJudge(plan, stepper, torch.zeros(LANES, 1, dtype=torch.float64), CRITICAL)


def step_of(ratios: list[float]) -> Any:
    """A step whose errors are those ratios of the tolerance, which is 1."""
    errors = torch.tensor(ratios, dtype=torch.float64).unsqueeze(1)
    return SimpleNamespace(y1=torch.where(errors.isfinite(), 0.0, errors), errors=(errors,))


@pytest.mark.parametrize("controller", CONTROLLERS, ids=str)
@settings(max_examples=40)
@given(rounds=ROUNDS)
def test_no_length_is_below_the_bound(controller: Any, rounds: Rounds) -> None:
    judge = judge_of(controller)
    h = torch.tensor([0.2, 0.1, 1e-7, 0.3], dtype=torch.float64)
    for ratios, targets in rounds:
        start = torch.zeros(LANES, dtype=torch.float64)
        reaches = torch.tensor([bool(targets >> lane & 1) for lane in range(LANES)])
        ends: Tensor = torch.where(reaches, h * 1e-6, h)  # a target cuts a step very short
        lanes: Any = SimpleNamespace(t=start, y=torch.zeros(LANES, 1, dtype=torch.float64))
        found = judge.verdict(step_of(ratios), lanes, h, ends, reaches if targets else None)
        h = found.h_next
        least = float(h.min())
        assert found.shortest <= least
        assert found.shortest > CRITICAL or found.shortest == least
        if controller.adaptive:
            assert (found.accept is None) == all(ratio <= 1.0 for ratio in ratios)
