"""Events: times and states in closed form, their gradients, and what torchdiffeq documents."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from isocline.torchdiffeq import SOLVERS, odeint, odeint_adjoint, odeint_event

from ..known import swing, swung

FIXED = [name for name, method in SOLVERS.items() if not method.adaptive and not method.boxed]
ADAPTIVE = [name for name, method in SOLVERS.items() if method.adaptive]
BOTH = pytest.mark.parametrize("interface", [odeint, odeint_adjoint])


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def fall(t: Tensor, state: Any) -> Any:
    """Height and speed under gravity 10."""
    _, v = state
    return v, -10 * torch.ones_like(v)


def ground(t: Tensor, state: Any) -> Tensor:
    return state[0]


@pytest.mark.parametrize("method", [*ADAPTIVE, *FIXED])
def test_the_event_is_found(method: str) -> None:
    """The first component of the rotation is cos(sin t): 0.8 where sin t = arccos 0.8."""
    options = {"step_size": 0.01} if method in FIXED else None
    expected = math.asin(math.acos(0.8))
    t, y = odeint_event(
        swing, swung(0.0), number(0.0), event_fn=lambda t, y: y[0] - 0.8,
        method=method, options=options, rtol=1e-6, atol=1e-6,
    )  # fmt: skip
    rough = 2e-2 if method in ("euler", "implicit_euler") else 1e-3
    assert t.item() == pytest.approx(expected, abs=rough)
    assert y.shape == (2, 2)
    assert torch.equal(y[0], swung(0.0))
    assert y[1, 0].item() == pytest.approx(0.8, abs=1e-9)


@BOTH
def test_a_falling_ball(interface: Any) -> None:
    """From height 5 at rest it takes a second, whatever the second output time says."""
    start = (number(5.0), number(0.0))
    for end in (0.1, 1.0, 50.0):
        t = torch.tensor([0.0, end], dtype=torch.float64)
        kwargs = {"adjoint_params": ()} if interface is odeint_adjoint else {}
        event_t, (height, speed) = interface(fall, start, t, event_fn=ground, **kwargs)
        assert event_t.shape == ()
        assert event_t.item() == pytest.approx(1.0, abs=1e-9)
        assert height.tolist() == pytest.approx([5.0, 0.0], abs=1e-8)
        assert speed.tolist() == pytest.approx([0.0, -10.0], abs=1e-8)


@BOTH
def test_reverse_time(interface: Any) -> None:
    start = (number(5.0), number(0.0))
    t, (_, speed) = odeint_event(
        fall, start, number(0.0), event_fn=ground, reverse_time=True, odeint_interface=interface
    )
    assert t.item() == pytest.approx(-1.0, abs=1e-9)
    assert speed[1].item() == pytest.approx(10.0, abs=1e-8)


@pytest.mark.parametrize("atol", [0.0, 1e-2])
def test_atol_is_not_the_precision_of_the_event(atol: float) -> None:
    """Where torchdiffeq's bisection takes it for that, and goes astray with zero."""
    start = (number(5.0), number(0.0))
    t, _ = odeint_event(fall, start, number(0.0), event_fn=ground, atol=atol, rtol=1e-6)
    assert t.item() == pytest.approx(1.0, abs=1e-9)


def test_of_several_events_the_first_counts() -> None:
    start = (number(5.0), number(0.0))

    def either(t: Tensor, state: Any) -> Tensor:
        return torch.stack([state[0] - 1.8, t - 0.9, state[1] + 3.0])  # at 0.8, 0.9 and 0.3

    t, (height, _) = odeint_event(fall, start, number(0.0), event_fn=either)
    assert t.item() == pytest.approx(0.3, abs=1e-9)
    assert height[1].item() == pytest.approx(5 - 0.45, abs=1e-8)


def test_an_event_that_passes_twice_within_a_step_is_not_missed() -> None:
    """torchdiffeq looks at the ends of steps alone."""
    t, _ = odeint_event(
        lambda t, y: torch.ones_like(y), number(0.0), number(0.0),
        event_fn=lambda t, y: (y - 1.0) * (y - 1.2), options={"first_step": 5.0},
    )  # fmt: skip
    assert t.item() == pytest.approx(1.0, abs=1e-9)


def test_an_event_function_may_become_zero_at_once_and_stay_so() -> None:
    """As in code that ends a simulation so: `if t > end: return zeros`."""

    def over(t: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(t) if t > 2.0 else torch.ones_like(t)

    t, _ = odeint_event(swing, swung(0.0), number(0.0), event_fn=over)
    assert t.item() == pytest.approx(2.0, abs=1e-6)


def test_at_the_start() -> None:
    """What is zero at t0 ends the solve there, as documented; gradients are those of any event."""
    start = (number(0.0).requires_grad_(), number(-2.0).requires_grad_())
    t0 = number(0.5).requires_grad_()
    t, (height, speed) = odeint_event(fall, start, t0, event_fn=ground)
    assert t.item() == 0.5
    assert height.tolist() == [0.0, 0.0]
    # A start that is higher by d falls for d / 2 longer.
    found = torch.autograd.grad(t, [*start, t0], allow_unused=True, retain_graph=True)
    assert found[0].item() == pytest.approx(0.5)
    assert found[1] is None or found[1].item() == 0.0
    assert found[2].item() == pytest.approx(1.0)
    (later,) = torch.autograd.grad(speed[1], start[0], retain_graph=True)
    assert later.item() == pytest.approx(-10 * 0.5)
    (lower,) = torch.autograd.grad(height[1], t0)
    assert lower.item() == pytest.approx(0.0)
    with torch.no_grad():
        assert odeint_event(fall, start, t0, event_fn=ground)[0].item() == 0.5


# --- gradients -------------------------------------------------------------------------------


class Ball(nn.Module):
    """A ball whose gravity, and the ground's height, are parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.gravity = nn.Parameter(number(9.0))
        self.level = nn.Parameter(number(0.5))

    def forward(self, t: Tensor, state: Any) -> Any:
        _, v = state
        return v, -self.gravity * torch.ones_like(v)

    def event_fn(self, t: Tensor, state: Any) -> Tensor:
        return state[0] - self.level


@BOTH
def test_gradients_of_time_and_state(interface: Any) -> None:
    """t = t0 + (v + w) / g with w = sqrt(v^2 + 2 g (h - l)), and the speed at the ground is -w."""
    ball = Ball()
    t0, h, v = number(0.3), number(4.0), number(1.0)
    leaves = [t0.requires_grad_(), h.requires_grad_(), v.requires_grad_(), *ball.parameters()]
    event_t, (_, speed) = odeint_event(
        ball, (h, v), t0.reshape(1), event_fn=ball.event_fn, odeint_interface=interface,
        rtol=1e-9, atol=1e-9,
    )  # fmt: skip
    w = torch.sqrt(v**2 + 2 * ball.gravity * (h - ball.level))
    exact_t = t0 + (v + w) / ball.gravity
    assert event_t.item() == pytest.approx(exact_t.item(), rel=1e-10)
    for found, exact in ((event_t, exact_t), (speed[1], -w)):
        ours = torch.autograd.grad(found, leaves, retain_graph=True, allow_unused=True)
        theirs = torch.autograd.grad(exact, leaves, retain_graph=True, allow_unused=True)
        for one, other in zip(ours, theirs, strict=True):
            slope = 0.0 if other is None else other.item()
            assert (0.0 if one is None else one.item()) == pytest.approx(slope, rel=1e-8, abs=1e-8)


@BOTH
def test_bounces_in_a_loop_as_users_write_them(interface: Any) -> None:
    """Twenty bounces, each losing a tenth of its speed: times and their gradient in closed form."""
    drop = number(2.0).requires_grad_()
    state, t, found = (drop, number(0.0)), number(0.0).reshape(1), []
    kwargs = {"adjoint_params": ()} if interface is odeint_adjoint else {}
    for _ in range(20):
        t, solution = odeint_event(
            fall, state, t, event_fn=ground, odeint_interface=interface, rtol=1e-8, atol=1e-8,
            **kwargs,
        )  # fmt: skip
        height, speed = (part[-1] for part in solution)
        state = (height + 1e-10, -0.9 * speed)  # clear of the ground, as torchdiffeq asks for
        found.append(t)
    first = math.sqrt(2 * 2.0 / 10)
    expected = [first * (1 + 2 * sum(0.9**i for i in range(1, n + 1))) for n in range(20)]
    assert [t.item() for t in found] == pytest.approx(expected, abs=1e-7)
    # All times go with the square root of the height.
    (gradient,) = torch.autograd.grad(found[-1], drop)
    assert gradient.item() == pytest.approx(expected[-1] / 4, rel=1e-6)


def test_gradients_by_finite_differences() -> None:
    torch.manual_seed(0)
    rate = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    shift = number(0.1).requires_grad_()
    y0 = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
    t0 = torch.tensor([0.2], dtype=torch.float64, requires_grad=True)

    def solve(y0: Tensor, t0: Tensor, rate: Tensor, shift: Tensor) -> Any:
        return odeint_event(
            lambda t, y: torch.tanh(y @ rate) + torch.tensor([1.0, -2.0]).to(y),
            y0, t0, event_fn=lambda t, y: y[1] - shift * t, rtol=1e-11, atol=1e-11,
        )  # fmt: skip

    assert gradcheck(solve, (y0, t0, rate, shift), atol=1e-5)


def test_float32_stays_float32() -> None:
    t0 = torch.tensor(0.0)
    start = (torch.tensor(5.0), torch.tensor(0.0))
    t, (height, _) = odeint_event(fall, start, t0, event_fn=ground, rtol=1e-5, atol=1e-5)
    assert t.dtype == height.dtype == torch.float32
    assert t.item() == pytest.approx(1.0, abs=1e-5)
