"""Control of many lanes is that of each: the formulas on tensors against those on numbers."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import isocline as ic
from isocline.controllers.initial_step import initial_step
from isocline.controllers.lanes import initial_steps, lane_control

PIDS: dict[str, ic.PID] = {
    "default": ic.PID(),
    "i": ic.I(safety=0.8, factor_max=4.0),
    "pi": ic.PI(),
    "pid": ic.PID(proportional=0.2, integral=0.5, derivative=0.1),
    "bounded": ic.PID(max_step=0.3),
}
RATIOS = st.one_of(
    st.floats(0.0, 1.0), st.floats(1.0, 50.0), st.just(0.0), st.just(math.nan), st.just(math.inf)
)


@pytest.mark.parametrize("name", PIDS)
@given(table=st.lists(st.lists(RATIOS, min_size=3, max_size=3), min_size=1, max_size=8))
def test_each_lane_is_judged_as_if_it_were_alone(name: str, table: list[list[float]]) -> None:
    pid, order = PIDS[name], 5
    control = lane_control(pid, order)
    lengths = torch.full((3,), 0.1, dtype=torch.float64)
    h: list[float] = lengths.tolist()
    states: list[Any] = [pid.init(order) for _ in h]
    for row in table:
        ratio = torch.tensor(row, dtype=torch.float64)
        accept = ratio <= 1.0
        every = bool(accept.all())
        lengths = control.grown(lengths, ratio) if every else control.mixed(lengths, ratio, accept)
        for lane, value in enumerate(row):
            decision = pid.decide(h[lane], value, states[lane])
            assert decision.accept == bool(accept[lane])
            h[lane], states[lane] = decision.h, decision.state
        assert torch.allclose(lengths, torch.tensor(h, dtype=torch.float64), rtol=1e-12)


def test_a_lane_keeps_its_memory_when_others_leave() -> None:
    pid = PIDS["pid"]
    ratio = torch.tensor([0.5, 3.0, 0.1], dtype=torch.float64)
    h = torch.full((3,), 0.1, dtype=torch.float64)
    whole, part = lane_control(pid, 5), lane_control(pid, 5)
    for control in (whole, part):
        control.mixed(h, ratio, ratio <= 1.0)
    stay = torch.tensor([1, 2])
    part.keep(stay)
    again = torch.tensor([0.3, 0.01, 0.2], dtype=torch.float64)
    assert torch.equal(whole.grown(h, again)[stay], part.grown(h[stay], again[stay]))


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e5])
def test_first_steps_are_those_of_joint_stepping(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    y0 = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    y0[3] = 0.0

    def field(t: Tensor, y: Tensor) -> Tensor:
        return scale * torch.sin(y + (t.unsqueeze(-1) if t.ndim else t))

    t0 = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)
    t1 = t0 + torch.tensor([1.0, 1e-9, 5.0, 2.0, 0.3], dtype=torch.float64)
    tolerance = 1e-6 + 1e-5 * y0.abs()

    def norm(y: Tensor) -> Tensor:
        return y.square().mean(-1).sqrt()

    found = initial_steps(field, t0, y0, field(t0, y0), t1, 5, tolerance, norm)
    for lane in range(5):
        time = t0[lane]
        slope = field(time, y0[lane])
        expected = initial_step(
            lambda t, y: field(torch.tensor(t, dtype=torch.float64), y),
            float(time), y0[lane], slope, float(t1[lane] - time), 5, tolerance[lane], norm,
        )  # fmt: skip
        assert float(found[lane]) == pytest.approx(expected, rel=1e-9)


def test_a_field_that_is_not_finite_at_the_start_gives_no_step() -> None:
    y0 = torch.ones(2, 1, dtype=torch.float64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.tensor([[torch.nan], [1.0]], dtype=torch.float64)

    ends = torch.zeros(2).double(), torch.ones(2).double()
    found = initial_steps(
        field, ends[0], y0, field(ends[0], y0), ends[1], 5, y0, lambda y: y.abs().amax(1)
    )
    assert math.isnan(float(found[0]))
    assert 0 < float(found[1]) <= 1
