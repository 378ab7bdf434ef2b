"""A compiled step is run only where it computes what the field does: the guards before it.

Each of these gave wrong numbers, or an error in the place of an answer, before there was a guard.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import isocline as ic
from isocline.compile import tracing

from .compile_cases import answers, same, states

pytestmark = pytest.mark.usefixtures("interpreted")


SHORT = {"solver": "midpoint", "dt0": 0.1, "controller": ic.Constant()}
"""Two evaluations a step: quick to trace."""


def alike(field: Any, y0: Any, watched: Any = (), **options: Any) -> None:
    """A compiled solve and an eager one agree to rounding."""
    options = SHORT | options
    eager, _ = answers(field, y0, watched, **options)
    fast, _ = answers(field, y0, watched, compile=True, **options)
    same(eager, fast)


def eager_after(reason: str, field: Any, y0: Any, watched: Any = (), **options: Any) -> None:
    """A compiled solve warns, and is the eager one to the last bit."""
    options = SHORT | options
    eager, _ = answers(field, y0, watched, **options)
    with pytest.warns(ic.CompileWarning, match=reason):
        fast, _ = answers(field, y0, watched, compile=True, **options)
    assert all(map(torch.equal, eager, fast))


class Scaled(nn.Module):
    """Decay at a rate of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(states(2).abs())

    def forward(self, t: Tensor, y: Tensor, k: Tensor) -> Tensor:
        return -y * self.w * k


def test_a_tensor_given_twice_and_then_two() -> None:
    field = Scaled()
    other = torch.full((2,), 3.0, dtype=torch.float64)
    for k in (field.w, other, field.w):
        alike(field, states(3, 2), [field.w], args=(k,))


def test_weights_tied_at_first_and_untied_later() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(states(2).abs())
            self.other = self.one

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -y * self.one + self.other

    field = Pair()
    alike(field, states(3, 2), list(field.parameters()))
    field.other = nn.Parameter(states(2))
    alike(field, states(3, 2), list(field.parameters()))
    field.one = field.other
    alike(field, states(3, 2), list(field.parameters()))


def test_branches_are_part_of_what_names_an_artifact() -> None:
    def text(factor: float) -> str:
        def body(y: Tensor) -> tuple[Tensor, ...]:
            return (torch.cond(y.sum() > 0, lambda y: y * factor, lambda y: -y, (y,)),)

        graph = make_fx(body, tracing_mode="fake")(torch.ones(2))
        return tracing._text(graph, [torch.ones(2)])

    assert text(2.0) == text(2.0)
    assert text(2.0) != text(3.0)


def test_the_sources_of_the_compiler_are_part_of_what_names_an_artifact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from isocline.compile import building
    from isocline.compile.passes import Passes

    traced = tracing.trace(lambda y: (y * 2,), [torch.ones(2)])
    before = building._key(traced, Passes())
    assert before == building._key(traced, Passes())
    monkeypatch.setattr(building, "_sources", lambda: "another version")
    assert before != building._key(traced, Passes())
