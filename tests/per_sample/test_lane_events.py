"""Events of each sample: bouncing balls, first passages, handlers, gradients of their times."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic

from .lane_cases import ADJOINTS, off

GRAVITY, BOUNCE, SPAN = 9.81, 0.8, 2.0


def falling(t: Tensor, y: Tensor, gravity: Tensor) -> Tensor:
    return torch.stack([y[:, 1], -gravity * torch.ones_like(y[:, 1])], 1)


def ball(bounce: Any) -> ic.Event:
    """The floor, from which a ball leaves with a part of its speed."""
    return ic.Event(
        lambda t, y, gravity: y[:, 0],
        handler=lambda t, y, gravity: torch.stack([0 * y[:, 0], -bounce * y[:, 1]], 1),
        direction=-1,
    )


def dropped(heights: Tensor, bounce: Any = BOUNCE, gravity: Any = None, **options: Any) -> Any:
    gravity = torch.tensor(GRAVITY).double() if gravity is None else gravity
    y0 = torch.stack([heights, torch.zeros_like(heights)], 1)
    settings = {"rtol": 1e-8, "atol": 1e-8, "event": ball(bounce), **options}
    return ic.solve(falling, y0, 0.0, SPAN, args=(gravity,), stepping="per_sample", **settings)


def bounces(height: Tensor, bounce: Any, gravity: Any) -> tuple[list[Tensor], Tensor]:
    """Times of all bounces in the span, and the state at its end, in closed form."""
    last = torch.zeros_like(height)
    t, v = (2 * height / gravity).sqrt(), (2 * height * gravity).sqrt()
    times, x, up = [], height, torch.zeros_like(height)
    while float(t.detach()) < SPAN:
        times.append(t)
        v = v * bounce
        last, x, up = t, torch.zeros_like(height), v
        t = t + 2 * v / gravity
    rest = SPAN - last
    return times, torch.stack([x + up * rest - gravity * rest**2 / 2, up - gravity * rest])


def test_a_thousand_balls_each_with_its_own_bounces() -> None:
    heights = torch.linspace(0.6, 5.0, 1000, dtype=torch.float64)
    with torch.no_grad():
        found = dropped(heights)
    events = found.sample_events
    assert bool((events.samples.diff() >= 0).all())
    counts = torch.bincount(events.samples, minlength=1000)
    place = 0
    for sample in range(1000):
        times, end = bounces(heights[sample], BOUNCE, GRAVITY)
        assert int(counts[sample]) == len(times)
        exact = torch.stack(times)
        assert float((events.t[place : place + len(times)] - exact).abs().max()) < 1e-7
        assert float((found.ys[0, sample] - end).abs().max()) < 1e-6
        place += len(times)
    assert all(status is ic.Status.SUCCESS for status in found.statuses)


def test_a_ball_bounces_alike_in_every_company() -> None:
    heights = torch.linspace(0.6, 5.0, 7, dtype=torch.float64)
    with torch.no_grad():
        among = dropped(heights)
        for company in ([3], [6, 0], [2, 5, 1, 0]):
            found = dropped(heights[company])
            assert torch.equal(found.ys[0], among.ys[0, company])
            for place, sample in enumerate(company):
                own = found.sample_events.t[found.sample_events.samples == place]
                expected = among.sample_events.t[among.sample_events.samples == sample]
                assert torch.equal(own, expected)


def loss_of(times: list[Tensor], ends: list[Tensor]) -> Tensor:
    weights = torch.cos(torch.arange(len(times)).double())
    return (torch.stack(times) * weights).sum() + sum(
        ((end * torch.tensor([1.0, 0.3])).sum() for end in ends), torch.zeros(())
    )


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_gradients_through_bounces_are_those_of_the_closed_form(adjoint: str) -> None:
    values = [torch.tensor([1.0, 2.0, 3.3]), torch.tensor(BOUNCE), torch.tensor(GRAVITY)]
    inputs = [value.double().requires_grad_() for value in values]
    heights, bounce, gravity = inputs
    options = {"rtol": 1e-9, "atol": 1e-9, "adjoint": ADJOINTS[adjoint]}
    found = dropped(heights, bounce, gravity, **options)
    loss = loss_of(list(found.sample_events.t), list(found.ys[-1]))
    times: list[Tensor] = []
    ends: list[Tensor] = []
    for height in heights:
        own, end = bounces(height, bounce, gravity)
        times += own
        ends.append(end)
    exact = loss_of(times, ends)
    assert float((loss - exact).detach()) == pytest.approx(0.0, abs=1e-6)
    first = torch.autograd.grad(loss, inputs, create_graph=True)
    expected = torch.autograd.grad(exact, inputs, create_graph=True)
    for one, other in zip(first, expected, strict=True):
        assert off(one, other) < 1e-7
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
    expected = torch.autograd.grad(sum(g.square().sum() for g in expected), inputs)
    for one, other in zip(second, expected, strict=True):
        assert off(one, other) < 1e-6


def rotation(t: Tensor, y: Tensor, speed: Tensor) -> Tensor:
    return speed.unsqueeze(1) * torch.stack([y[:, 1], -y[:, 0]], 1)


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("way", [1.0, -1.0])
def test_the_first_passage_ends_each_sample(adjoint: str, way: float) -> None:
    """(sin, cos) of speed times t: the second component is zero a quarter of a turn later."""
    speed = torch.linspace(0.3, 4.0, 5, dtype=torch.float64).requires_grad_()
    y0 = torch.tensor([[0.0, 1.0]], dtype=torch.float64).repeat(5, 1)
    found = ic.solve(
        rotation,
        y0,
        0.0,
        way * math.inf,
        args=(ic.PerSample(speed),),
        event=lambda t, y, speed: y[:, 1],
        stepping="per_sample",
        adjoint=ADJOINTS[adjoint],
        rtol=1e-9,
        atol=1e-9,
    )
    assert set(found.statuses) == {ic.Status.EVENT}
    assert found.status is ic.Status.EVENT
    events = found.sample_events
    exact = way * math.pi / (2 * speed)
    assert off(events.t, exact) < 1e-7
    assert torch.equal(found.t_ends, events.t)
    assert torch.equal(found.ys[0], events.y)
    (gradient,) = torch.autograd.grad(events.t.sum(), speed)
    assert off(gradient, -way * math.pi / (2 * speed.square())) < 1e-7


def test_samples_without_an_event_reach_their_end() -> None:
    speed = torch.tensor([0.1, 3.0, 0.2], dtype=torch.float64)
    y0 = torch.tensor([[0.0, 1.0]], dtype=torch.float64).repeat(3, 1)
    with torch.no_grad():
        found = ic.solve(
            rotation, y0, 0.0, 2.0, args=(ic.PerSample(speed),), stepping="per_sample",
            event=lambda t, y, speed: y[:, 1], save=ic.SaveAt(ts=[0.1, 1.0, 1.9], t1=True),
        )  # fmt: skip
    assert [status is ic.Status.EVENT for status in found.statuses] == [False, True, False]
    assert found.lengths is not None
    assert found.lengths.tolist() == [4, 2, 4]
    assert found.t_ends is not None
    assert float(found.t_ends[1]) == pytest.approx(math.pi / 6, abs=1e-5)


def test_directions_numbers_and_several_conditions() -> None:
    speed = torch.tensor([1.0, 2.0], dtype=torch.float64)
    y0 = torch.tensor([[0.0, 1.0]], dtype=torch.float64).repeat(2, 1)
    up = ic.Event(lambda t, y, speed: y, direction=1, terminal=3)

    def run(event: Any) -> Any:
        with torch.no_grad():
            return ic.solve(
                rotation, y0, 0.0, 20.0, args=(ic.PerSample(speed),), stepping="per_sample",
                event=event, rtol=1e-8, atol=1e-8,
            )  # fmt: skip

    events = run(up).sample_events
    # The second component rises through zero at 3/4 of a turn, the first at whole turns.
    turns = events.t / (2 * math.pi) * speed[events.samples]
    assert torch.allclose(turns, torch.tensor([0.75, 1.0, 1.75] * 2).double(), atol=1e-6)
    assert events.elements.tolist() == [1, 0, 1] * 2
    late = ic.Event(lambda t, y, speed: t - 3.0, terminal=1)
    both = run([up, late]).sample_events
    assert both.events.tolist() == [1, 0, 1]
    assert torch.allclose(both.t[[0, 2]], torch.tensor(3.0).double())


def test_passages_through_zero_and_back_within_one_step_are_found() -> None:
    """A constant derivative lets steps grow to the whole span, in which a parabola dips."""
    depth = torch.tensor([0.3, 1e-3, -1e-3], dtype=torch.float64)

    def condition(t: Tensor, y: Tensor, depth: Tensor) -> Tensor:
        return (y[:, 0] - 0.63) ** 2 - depth

    with torch.no_grad():
        found = ic.solve(
            lambda t, y, depth: torch.ones_like(y), torch.zeros(3, 1).double(), 0.0, 1.0,
            args=(ic.PerSample(depth),), event=condition, stepping="per_sample",
        )  # fmt: skip
    events = found.sample_events
    assert events.samples.tolist() == [0, 1]
    assert torch.allclose(events.t, 0.63 - depth[:2].sqrt(), atol=1e-6)


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "dop853", "vern7", "bs5"])
def test_methods_with_and_without_further_stages(method: str) -> None:
    heights = torch.linspace(0.6, 3.0, 4, dtype=torch.float64)
    with torch.no_grad():
        found = dropped(heights, solver=method, rtol=1e-7, atol=1e-7)
    for sample in range(4):
        times, end = bounces(heights[sample], BOUNCE, GRAVITY)
        own = found.sample_events.t[found.sample_events.samples == sample]
        assert float((own - torch.stack(times)).abs().max()) < 1e-6
        assert float((found.ys[0, sample] - end).abs().max()) < 1e-5


def test_conditions_and_handlers_that_do_not_fit() -> None:
    def run(**event: Any) -> None:
        y0 = torch.ones(3, 2)
        ic.solve(lambda t, y: -y, y0, 0.0, 3.0, stepping="per_sample", event=ic.Event(**event))

    with pytest.raises(ic.InputError, match="a value for each sample"):
        run(condition=lambda t, y: y.sum())
    with pytest.raises(ic.InputError, match="real floating-point"):
        run(condition=lambda t, y: y[:, 0] > 0.5)
    with pytest.raises(ic.InputError, match="NaN"):
        run(condition=lambda t, y: torch.log(y[:, 0] - 0.5))
    with pytest.raises(ic.InputError, match=r"event\.handler"):
        run(condition=lambda t, y: y[:, 0] - 0.5, handler=lambda t, y: y[:, 0])
    y0 = torch.ones(3, 2, requires_grad=True)
    level = ic.Event(lambda t, y: (y[:, 0] - 0.5).detach())
    with pytest.raises(ic.GradientError, match="no derivative"):
        ic.solve(lambda t, y: -y, y0, 0.0, 3.0, stepping="per_sample", event=level)


@pytest.mark.parametrize("adjoint", [name for name in ADJOINTS if name != "direct"])
def test_a_lane_that_tries_again_after_its_event_keeps_the_events_gradient(adjoint: str) -> None:
    """Another lane's event, in the round in which the first step after one's own was rejected, made
    replays forget that this step starts from an event: the time's gradient was lost."""

    def rough(t: Tensor, y: Tensor) -> Tensor:
        x, v = y.unbind(1)
        return torch.stack([v, -GRAVITY - 2 * v * v.abs() - 3 * torch.sin(30 * x)], 1)

    event = ic.Event(
        lambda t, y: y[:, 0],
        handler=lambda t, y: torch.stack([0 * y[:, 0], 2 - BOUNCE * y[:, 1]], 1),
        direction=-1,
    )

    def gradient(how: Any) -> Tensor:
        heights = torch.linspace(0.6, 1.0, 8, dtype=torch.float64).requires_grad_()
        found = ic.solve(
            rough, torch.stack([heights, 0 * heights], 1), 0.0, 0.6, event=event, adjoint=how,
            stepping="per_sample", solver="bosh3", rtol=1e-3, atol=1e-3,
        )  # fmt: skip
        loss = found.ys.sin().sum() + found.sample_events.t.sin().sum()
        return torch.autograd.grad(loss, heights)[0]

    assert off(gradient(ADJOINTS[adjoint]), gradient(ic.Direct())) < 1e-12
