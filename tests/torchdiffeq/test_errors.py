"""What is wrong is refused with errors of the kinds that torchdiffeq raises."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.torchdiffeq import odeint, odeint_adjoint, odeint_dense, odeint_event, steps

Y = torch.tensor([1.0, 2.0], dtype=torch.float64)
T = torch.tensor([0.0, 1.0], dtype=torch.float64)


def decay(t: Tensor, y: Any) -> Any:
    return -y


def pair(t: Tensor, y: Any) -> Any:
    return tuple(-leaf for leaf in y)


CASES: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "t a list": (AssertionError, "t must be a torch.Tensor", lambda: odeint(decay, Y, [0.0, 1.0])),
    "t of integers": (
        TypeError, "t must be a floating point Tensor",
        lambda: odeint(decay, Y, torch.tensor([0, 1])),
    ),
    "t a matrix": (AssertionError, "one dimensional", lambda: odeint(decay, Y, T[None])),
    "t a number": (AssertionError, "one dimensional", lambda: odeint(decay, Y, T[0])),
    "t empty": (AssertionError, "at least one time", lambda: odeint(decay, Y, T[:0])),
    "t to and fro": (
        AssertionError, "strictly increasing or decreasing",
        lambda: odeint(decay, Y, torch.tensor([0.0, 1.0, 0.5])),
    ),
    "t twice the same": (
        AssertionError, "strictly increasing or decreasing",
        lambda: odeint(decay, Y, torch.tensor([0.0, 0.0])),
    ),
    "y0 a list": (AssertionError, "a torch.Tensor or a tuple", lambda: odeint(pair, [Y], T)),
    "y0 nested": (AssertionError, "a torch.Tensor or a tuple", lambda: odeint(pair, (Y, (Y,)), T)),
    "func no function": (TypeError, "func", lambda: odeint(3, Y, T)),
    "method unknown": (
        ValueError, 'Invalid method "adams".*"dopri8", "dopri5".*"scipy_solver"',
        lambda: odeint(decay, Y, T, method="adams"),
    ),
    "rtol with a gradient": (
        AssertionError, "rtol cannot require gradient",
        lambda: odeint(decay, Y, T, rtol=torch.tensor(0.1, requires_grad=True)),
    ),
    "rtol of another length": (
        AssertionError, "the same length as the tuple y0",
        lambda: odeint(pair, (Y, Y), T, rtol=(0.1, 0.1, 0.1)),
    ),
    "atol of another shape": (
        ValueError, "atol", lambda: odeint(pair, (Y, Y), T, atol=(0.1, torch.ones(3))),
    ),
    "atol a word": (TypeError, "atol", lambda: odeint(decay, Y, T, atol="small")),
    "stops twice": (
        ValueError, "repeated elements",
        lambda: odeint(decay, Y, T, options={"step_t": T[1:] / 2, "jump_t": T[1:] / 2}),
    ),
    "two ways to step": (
        ValueError, "mutually exclusive",
        lambda: odeint(
            decay, Y, T, method="rk4",
            options={"step_size": 0.1, "grid_constructor": lambda f, y, t: t},
        ),
    ),
    "a step of no length": (
        ValueError, "a positive length",
        lambda: odeint(decay, Y, T, method="rk4", options={"step_size": 0.0}),
    ),
    "a grid that ends elsewhere": (
        AssertionError, r"to t\[-1\] = 1.0",
        lambda: odeint(
            decay, Y, T, method="rk4", options={"grid_constructor": lambda f, y, t: t / 2}
        ),
    ),
    "a grid out of order": (
        AssertionError, "out of order",
        lambda: odeint(
            decay, Y, T, method="rk4",
            options={"grid_constructor": lambda f, y, t: torch.tensor([0.0, 0.7, 0.3, 1.0])},
        ),
    ),
    "a grid that is none": (
        TypeError, "grid_constructor",
        lambda: odeint(decay, Y, T, method="rk4", options={"grid_constructor": lambda f, y, t: 3}),
    ),
    "interp unknown": (
        ValueError, "'linear' or 'cubic'",
        lambda: odeint(decay, Y, T, method="rk4", options={"interp": "quintic"}),
    ),
    "max_order too high": (
        AssertionError, "max_order must be at most 12",
        lambda: odeint(decay, Y, T, method="implicit_adams", options={"max_order": 13}),
    ),
    "safety no number": (
        TypeError, "safety", lambda: odeint(decay, Y, T, options={"safety": "first"}),
    ),
    "a norm that is none": (TypeError, "norm", lambda: odeint(decay, Y, T, options={"norm": 2})),
    "adjoint options not to be told": (
        ValueError, "adjoint_options",
        lambda: odeint_adjoint(
            decay, Y, T, method="rk4", options={"step_size": 0.1}, adjoint_method="dopri5"
        ),
    ),
    "adjoint norm unknown": (
        ValueError, "'seminorm' or a function",
        lambda: odeint_adjoint(decay, Y, T, adjoint_options={"norm": "norm"}),
    ),
    "three times for an event": (
        ValueError, r"len\(t\) == 2",
        lambda: odeint(decay, Y, torch.tensor([0.0, 1.0, 2.0]), event_fn=lambda t, y: y[0]),
    ),
    "an event without a step size": (
        AssertionError, "a step_size, for event handling",
        lambda: odeint_event(decay, Y, T[0], event_fn=lambda t, y: y[0] - 0.5, method="rk4"),
    ),
    "a field of another length": (
        ValueError, "field", lambda: odeint(lambda t, y: torch.ones(3), Y, T),
    ),
    "a field of another kind": (ValueError, "field", lambda: odeint(lambda t, y: None, Y, T)),
    "a field of too few entries": (
        ValueError, "field", lambda: odeint(lambda t, y: (y[0],), (Y, Y), T),
    ),
    "not a number": (
        AssertionError, "non-finite", lambda: odeint(lambda t, y: y * float("nan"), Y, T),
    ),
    "a singularity": (
        AssertionError, "underflow in dt|non-finite", lambda: odeint(lambda t, y: y**2, Y, 3 * T),
    ),
    "a singularity reached in steps": (
        AssertionError, "underflow in dt",
        lambda: odeint_dense(lambda t, y: 1 / (t - 0.5) ** 2 + 0 * y, Y, 0.0, 1.0),
    ),
    "too many steps": (
        AssertionError, r"max_num_steps exceeded",
        lambda: odeint(decay, Y, T, options={"max_num_steps": 2}),
    ),
    "an event that never comes": (
        RuntimeError, "step limit",
        lambda: odeint_event(
            decay, Y, T[0], event_fn=lambda t, y: y[0] + 1, method="euler",
            options={"step_size": 1.0},
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_errors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_EVENT_STEPS", 50)  # 20000 would take a while
    kind, words, act = CASES[name]
    with pytest.raises(kind, match=words) as caught:
        act()
    assert isinstance(caught.value, ic.IsoclineError)


def test_func_need_not_be_a_module_and_parameters_need_not_be_named() -> None:
    """Where torchdiffeq refuses: a function's parameters are found as a module's are."""
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    end = odeint_adjoint(lambda t, y: -rate * y, Y, T)[1]
    (gradient,) = torch.autograd.grad(end.sum(), rate)
    assert gradient.item() == pytest.approx(-3.0 * torch.exp(torch.tensor(-0.5)).item(), rel=1e-6)
