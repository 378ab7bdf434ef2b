"""Samplers: budgets, grids and guidance, by counting what the field is really asked."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import isocline as ic
from isocline.errors import InputError
from isocline.nn import CNF, Sampler
from isocline.solvers import SOLVERS, ExplicitRungeKutta

from ...known import Watched
from .flow_cases import DTYPE, FIELDS

EXPLICIT = [name for name, method in SOLVERS.items() if issubclass(method, ExplicitRungeKutta)]
OTHERS = [name for name in SOLVERS if name not in EXPLICIT]
EVERY = pytest.mark.parametrize("name", EXPLICIT)
SPANS = st.sampled_from([(0.0, 1.0), (1.0, 0.0), (-0.7, 2.3), (5.0, 4.9)])


def swirl(t: Tensor, z: Tensor) -> Tensor:
    return torch.cos(3.0 * t) * z.flip(-1) - 0.3 * z


def watched(t0: float = 0.0, t1: float = 1.0, **settings: Any) -> tuple[Watched, CNF]:
    field = Watched(swirl)
    return field, CNF(field, 2, t0=t0, t1=t1, **settings).to(DTYPE)


@EVERY
@given(nfe=st.integers(1, 60), span=SPANS)
def test_a_budget_is_kept_and_spent(name: str, nfe: int, span: tuple[float, float]) -> None:
    """The field is called at most `nfe` times, and another step would not have fitted."""
    solver = SOLVERS[name]()
    first = int(solver.tableau.stages)
    if nfe < first:
        with pytest.raises(InputError, match=rf"`nfe`.*at least {first}"):
            Sampler(name, nfe=nfe)
        return
    field, flow = watched(*span)
    flow.sample(2, sampler=Sampler(name, nfe=nfe))
    assert len(field.times) <= nfe < len(field.times) + solver.evaluations_per_step
    assert flow.nfe_forward == len(field.times)
    low, high = sorted(span)
    assert all(low <= t <= high for t in field.values)


@pytest.mark.parametrize("name", OTHERS)
def test_a_method_whose_steps_differ_in_cost_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="explicit Runge-Kutta"):
        Sampler(name, nfe=100)


@EVERY
def test_a_recorded_gradient_costs_one_evaluation_at_most(name: str) -> None:
    """By which the adjoint finds out what the field depends on."""
    solver = SOLVERS[name]()
    nfe = int(solver.tableau.stages) + 3 * solver.evaluations_per_step
    weight = torch.tensor(0.3, dtype=DTYPE, requires_grad=True)
    field = Watched(lambda t, z: weight * torch.cos(z + t))
    flow = CNF(field, 2).to(DTYPE)
    assert flow.rsample(2, sampler=Sampler(name, nfe=nfe)).requires_grad
    assert nfe <= len(field.times) <= nfe + 1


@EVERY
@pytest.mark.parametrize(
    ("span", "times"),
    [
        ((0.0, 1.0), [0.1, 0.15, 0.8]),
        ((0.0, 1.0), [0.0, 0.3, 1.0]),
        ((1.0, 0.0), [0.9, 0.2]),
        ((-0.7, 2.3), [2.0]),
        ((-0.7, 2.3), []),
    ],
)
def test_a_grid_is_stepped_exactly(
    name: str, span: tuple[float, float], times: list[float]
) -> None:
    """Steps end at the given times and nowhere else: the nodes of the table say where it looks."""
    field, flow = watched(*span)
    flow.sample(2, sampler=Sampler(name, times=times))
    ends = sorted({*span, *times}, reverse=span[0] > span[1])
    nodes = [float(c) for c in SOLVERS[name]().tableau.c]
    expected = {t + c * (u - t) for t, u in pairwise(ends) for c in nodes}
    for one, other in ((field.values, expected), (expected, field.values)):
        assert all(min(abs(t - u) for u in other) < 1e-12 for t in one)
    steps = len(ends) - 1
    solver = SOLVERS[name]()
    extra = int(solver.tableau.stages) - solver.evaluations_per_step
    assert len(field.times) == steps * solver.evaluations_per_step + extra


def test_eulers_steps_by_hand() -> None:
    _, flow = watched()
    torch.manual_seed(7)
    found = flow.sample(5, sampler=Sampler(times=[0.2, 0.7]))
    torch.manual_seed(7)
    z = flow.base_distribution().sample(torch.Size([5]))
    for t, h in ((0.0, 0.2), (0.2, 0.5), (0.7, 0.3)):
        z = z + h * swirl(torch.tensor(t, dtype=DTYPE), z)
    torch.testing.assert_close(found, z, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in EXPLICIT if name != "euler"])
def test_a_large_budget_approaches_the_flow(name: str) -> None:
    _, flow = watched(rtol=1e-9, atol=1e-9)
    torch.manual_seed(7)
    exact = flow.sample(5)
    torch.manual_seed(7)
    found = flow.sample(5, sampler=Sampler(SOLVERS[name](), nfe=200))
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3)


def test_steps_are_equal_up_to_another_time_too() -> None:
    field, flow = watched(0.0, 2.0)
    flow.sample(2, t=1.0, sampler=Sampler(nfe=4))
    assert field.values == pytest.approx([0.0, 0.25, 0.5, 0.75], abs=1e-12)
    with pytest.raises(InputError, match=r"`times`.*between 0.0 and 1.0"):
        flow.sample(2, t=1.0, sampler=Sampler(times=[1.5]))


def test_at_the_start_there_is_nothing_to_step() -> None:
    field, flow = watched()
    for sampler in (Sampler(nfe=4), Sampler(times=[])):
        assert flow.sample(2, t=0.0, sampler=sampler).shape == (2, 2)
    assert not field.times


def test_the_settings_of_the_flow_are_left_as_they_were() -> None:
    _, flow = watched(solver="dopri5", rtol=1e-4)
    before = (flow.solver, flow.dt0, flow.controller, flow.rtol)
    flow.sample(2, sampler=Sampler("heun", nfe=4))
    assert (flow.solver, flow.dt0, flow.controller, flow.rtol) == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "nfe, times"),
        ({"nfe": 4, "times": [0.5]}, "nfe, times"),
        ({"nfe": 0}, "nfe"),
        ({"nfe": -3}, "nfe"),
        ({"nfe": "many"}, "nfe"),
        ({"solver": "dopri5", "nfe": 6}, "nfe"),
        ({"times": [0.5, 0.5]}, "times"),
        ({"times": [0.2, 0.5, 0.3]}, "times"),
        ({"times": [0.2, float("nan")]}, "times"),
        ({"times": ["noon"]}, "times"),
        ({"times": 0.5}, "times"),
        ({"solver": "eular", "nfe": 4}, "solver"),
        ({"solver": ic.Tsit5, "nfe": 40}, "solver"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=rf"^`{named}`"):
        Sampler(**options)


@pytest.mark.parametrize(
    ("span", "times"),
    [
        ((0.0, 1.0), [-0.1, 0.5]),
        ((0.0, 1.0), [1.5]),
        ((0.0, 1.0), [0.7, 0.2]),
        ((1.0, 0.0), [0.2, 0.7]),
    ],
)
def test_times_off_the_way_are_named(span: tuple[float, float], times: list[float]) -> None:
    """Outside of the span, or in the order of the other direction."""
    field, flow = watched(*span)
    with pytest.raises(InputError, match=r"^`times`"):
        flow.sample(2, sampler=Sampler(times=times))
    assert not field.times


# --- guidance ------------------------------------------------------------------------------------

NULLS = {"default": None, "given": torch.tensor([0.3, -1.0, 2.0])}


def guided(null: str, **options: Any) -> tuple[CNF, Tensor]:
    """A conditional flow and a context, whose null context is zeros or given."""
    chosen = NULLS[null]
    flow = FIELDS["conditional"].flow(null_context=chosen, rtol=1e-8, atol=1e-8)
    return flow, torch.randn(4, 3, dtype=DTYPE)


def seeded(flow: CNF, *args: Any, **options: Any) -> Tensor:
    torch.manual_seed(11)
    return flow.sample(*args, **options)


@pytest.mark.parametrize("sampler", [None, Sampler("heun", nfe=8)], ids=["own", "heun"])
@pytest.mark.parametrize("null", NULLS)
def test_scale_one_is_no_guidance_and_scale_zero_no_context(
    null: str, sampler: Sampler | None
) -> None:
    flow, context = guided(null)
    plain = seeded(flow, 2, context, sampler=sampler)
    found = seeded(flow, 2, context, guidance=1.0, sampler=sampler)
    torch.testing.assert_close(found, plain, rtol=1e-7, atol=1e-7)
    nothing = torch.zeros(3) if NULLS[null] is None else NULLS[null]
    none = nothing.to(DTYPE).expand(4, 3)
    expected = seeded(flow, 2, none, sampler=sampler)
    found = seeded(flow, 2, context, guidance=0.0, sampler=sampler)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("scale", [-1.0, 0.5, 3.0])
def test_guidance_is_an_extrapolation_of_the_velocity(scale: float) -> None:
    """By Euler's one step, which is linear in the velocity."""
    flow, context = guided("given")
    one = Sampler(times=[])
    none = NULLS["given"].to(DTYPE).expand(4, 3)
    with_it, without = (seeded(flow, (), c, sampler=one) for c in (context, none))
    found = seeded(flow, (), context, guidance=scale, sampler=one)
    torch.testing.assert_close(found, without + scale * (with_it - without))


def test_guidance_without_a_context_is_refused() -> None:
    flow, _ = guided("default")
    with pytest.raises(InputError, match=r"^`guidance`"):
        flow.sample(3, guidance=2.0)


def test_guided_samples_carry_gradients_to_the_null_context() -> None:
    flow, context = guided("given")
    flow.null_context.requires_grad_()
    flow.rsample((), context, guidance=2.0, sampler=Sampler(nfe=3)).sum().backward()
    assert float(flow.null_context.grad.abs().min()) > 0
