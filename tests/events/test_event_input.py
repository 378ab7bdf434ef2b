"""What is no event, no condition and no handler: each a clear, typed error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import isocline as ic

from .known_events import clocked, f64, fall, height, times_of

GRAD = pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"condition": 3}, "event.condition"),
        ({"condition": torch.ones(2)}, "event.condition"),
        ({"handler": 3}, "event.handler"),
        ({"terminal": -1}, "event.terminal"),
        ({"terminal": 1.0}, "event.terminal"),
        ({"terminal": "first"}, "event.terminal"),
        ({"direction": 2}, "event.direction"),
        ({"direction": "up"}, "event.direction"),
        ({"direction": None}, "event.direction"),
        ({"tolerance": 0}, "event.tolerance"),
        ({"tolerance": -1e-3}, "event.tolerance"),
        ({"tolerance": math.nan}, "event.tolerance"),
        ({"tolerance": "fine"}, "event.tolerance"),
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], argument: str) -> None:
    with pytest.raises(ic.InputError) as raised:
        ic.Event(**{"condition": height, **settings})
    assert raised.value.argument == argument


@pytest.mark.parametrize(
    "event", [3, "event", nn.Linear, ic.Event, {}, [[height]], [height, None], iter([height])]
)
def test_what_is_no_event(event: Any) -> None:
    with pytest.raises(ic.InputTypeError) as raised:
        ic.solve(fall, f64(2.0, 0.0), 0, 1, event=event)
    assert raised.value.argument == "event"


@pytest.mark.parametrize("way", ["bare", "event", "list", "tuple", "module", "mixed"])
def test_every_way_to_give_an_event(way: str) -> None:
    class Height(nn.Module):
        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return y[0] - 1

    one = Height()
    event: Any = {
        "bare": lambda t, y: y[0] - 1,
        "event": ic.Event(one),
        "list": [one],
        "tuple": (one,),
        "module": one,
        "mixed": [ic.Event(height, terminal=0), lambda t, y: y[0] - 1],
    }[way]
    sol = ic.solve(fall, f64(2.0, 0.0), 0, 1, event=event)
    assert sol.status is ic.Status.EVENT
    assert sol.t_end == pytest.approx(math.sqrt(2 / 9.81), abs=1e-4)


@pytest.mark.parametrize("event", [None, [], ()])
def test_no_event_at_all(event: Any) -> None:
    sol = ic.solve(fall, f64(2.0, 0.0), 0, 1, event=event)
    assert sol.status is ic.Status.SUCCESS
    assert sol.events == ()
    with pytest.raises(ic.InputError, match="An event that ends the solve"):
        ic.solve(fall, f64(2.0, 0.0), 0, math.inf, event=event)


def test_without_a_terminal_event_the_end_must_be_finite() -> None:
    free = ic.Event(height, terminal=0)
    for event in (free, [free, ic.Event(height, lambda t, y: y)]):
        with pytest.raises(ic.InputError) as raised:
            ic.solve(fall, f64(2.0, 0.0), 0, math.inf, event=event)
        assert raised.value.argument == "t1"
    with pytest.raises(ic.InputError):
        ic.solve(fall, f64(2.0, 0.0), -math.inf, 0, event=height)
    with pytest.raises(ic.InputError):
        ic.solve(fall, f64(2.0, 0.0), 0, math.nan, event=height)


@GRAD
@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (lambda t, y: None, "NoneType"),
        (lambda t, y: 1.5 - y[0].item(), "has lost the gradient"),
        (lambda t, y: np.float64(1.5) - y[0].item(), "has lost the gradient"),
        (lambda t, y: 3, "int"),
        (lambda t, y: y[0] > 1, "bool"),
        (lambda t, y: (y[0] * 10).long(), "int64"),
        (lambda t, y: torch.complex(y[0], y[1]), "complex128"),
        (lambda t, y: (y[0], y[1]), "Tensor"),
        (lambda t, y: {"y": y}, "'y'"),
        (lambda t, y: "zero", "str"),
    ],
)
def test_what_is_no_condition(condition: Any, said: str, grad: bool) -> None:
    with torch.set_grad_enabled(grad), pytest.raises(ic.InputTypeError, match=said) as raised:
        ic.solve(fall, f64(2.0, 0.0).requires_grad_(grad), 0, 1, event=condition)
    assert raised.value.argument == "event.condition"


@GRAD
def test_a_condition_without_elements_or_of_changing_shape(grad: bool) -> None:
    def growing(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y[:1] + 9 if t < 0.5 else y + 9

    with torch.set_grad_enabled(grad):
        with pytest.raises(ic.InputError, match="some elements"):
            ic.solve(fall, f64(2.0, 0.0), 0, 1, event=lambda t, y: y[:0])
        with pytest.raises(ic.InputError, match="same shape") as raised:
            ic.solve(fall, f64(2.0, 0.0), 0, 1, event=growing)
    assert raised.value.argument == "event.condition"


@GRAD
def test_a_condition_that_is_no_number(grad: bool) -> None:
    """NaN hides passages: it is an error wherever it can do so, and nowhere else."""

    def run(condition: Any) -> ic.Solution:
        event = ic.Event(condition, terminal=1)
        with torch.set_grad_enabled(grad):
            y0 = f64(1.0, 2.0).requires_grad_(grad)
            return ic.solve(lambda t, y: -torch.ones_like(y), y0, 0, 3, solver="rk4", dt0=1.0,
                            event=event)  # fmt: skip

    for always in (lambda t, y: y[0] * math.nan, lambda t, y: y * f64(1.0, math.nan)):
        with pytest.raises(ic.InputError, match="NaN at t = 0"):
            run(always)
    with pytest.raises(ic.InputError, match=r"NaN at t = 1\.25"):
        run(lambda t, y: y[0].sqrt() + 0.1)
    with pytest.raises(ic.InputError, match="A root or a logarithm"):
        run(lambda t, y: (y[0] + 0.1).log() + 9)
    # It has ended at t = 1/2 when it would be NaN; and infinity is a number with a sign.
    assert run(lambda t, y: (y[0] - 0.1).sqrt() - 0.4**0.5).t_end == pytest.approx(0.5)
    assert run(lambda t, y: torch.where(y[1] > 1.5, math.inf, y[0] - 0.25)).t_end == 0.75


@GRAD
@pytest.mark.parametrize(
    ("handler", "kind", "said"),
    [
        (lambda t, y: None, ic.InputTypeError, "NoneType"),
        (lambda t, y: 1.0, ic.InputTypeError, "float"),
        (lambda t, y: (y[0], y[1]), ic.InputTypeError, "a tensor"),
        (lambda t, y: y[:1], ic.InputError, r"shape \(1,\)"),
        (lambda t, y: y[None], ic.InputError, r"shape \(1, 2\)"),
        (lambda t, y: torch.complex(y, y), ic.InputError, "complex"),
        (lambda t, y: y * math.nan, ic.InputError, "NaN or infinite, at t = 0.5"),
        (lambda t, y: y / 0, ic.InputError, "NaN or infinite, at t = 0.5"),
        (lambda t, y: y.to("meta"), ic.InputError, "meta"),
    ],
)
def test_what_no_handler_may_return(handler: Any, kind: Any, said: str, grad: bool) -> None:
    event = ic.Event(clocked(lambda t: t - 0.5), handler)
    with torch.set_grad_enabled(grad), pytest.raises(kind, match=said) as raised:
        ic.solve(fall, f64(2.0, 0.0).requires_grad_(grad), 0, 1, event=event)
    assert raised.value.argument == "event.handler"


def test_a_handler_of_another_structure() -> None:
    y0 = {"x": f64(1.0)[None], "v": f64(2.0)[None]}
    event = ic.Event(clocked(lambda t: t - 0.5), lambda t, y: {"x": y["x"]})
    with pytest.raises(ic.InputTypeError) as raised:
        ic.solve(lambda t, y: y, y0, 0, 1, event=event)
    assert raised.value.argument == "event.handler"


def test_an_error_of_the_user_s_own_passes_through() -> None:
    def condition(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if t > 0.3:
            raise KeyError("mine")
        return y[0]

    with pytest.raises(KeyError, match="mine"):
        ic.solve(fall, f64(2.0, 0.0), 0, 1, event=condition)


def test_a_black_box_takes_no_events() -> None:
    with pytest.raises(ic.InputError) as raised:
        ic.solve(fall, f64(2.0, 0.0), 0, 1, solver="lsoda", event=height)
    assert raised.value.argument == "event"


def test_truth_values_as_numbers_of_occurrences() -> None:
    for terminal, count in ((True, 1), (False, 3)):
        event = ic.Event(clocked(torch.sin), terminal=terminal)
        sol = ic.solve(lambda t, y: -y, f64(1.0, 2.0), 0.5, 10, event=event)
        assert len(times_of(sol)) == count
