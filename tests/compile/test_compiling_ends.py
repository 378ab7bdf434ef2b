"""Compiling comes to an end: what changes all the time, or failed before, runs uncompiled."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.compile import kinds, program
from isocline.compile.building import BuildError
from isocline.compile.tracing import traces_so_far

SHORT: dict[str, Any] = {"solver": "euler", "dt0": 0.5, "controller": ic.Constant()}


def reasons(solve: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        solve()
    return [str(one.message) for one in caught]


class Scaled(nn.Module):
    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k
        self.w = nn.Parameter(torch.ones(2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.k * y * self.w


def test_a_new_object_with_a_new_number_at_every_solve(
    interpreted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "_MAX_KINDS", 2)
    found = []
    for k in range(4):
        field = Scaled(1.0 + k)
        found += reasons(lambda: ic.solve(field, torch.ones(2, 2), 0, 1, compile=True, **SHORT))  # noqa: B023
    assert len(interpreted) == 2
    assert len(found) == 2
    assert "field.k changes from solve to solve" in found[0]


def test_states_of_many_sizes_without_a_batch(
    interpreted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "_MAX_KINDS", 2)
    found = []
    for size in (3, 4, 5, 6, 3):
        y0 = torch.ones(size)
        found += reasons(lambda: ic.solve(decay, y0, 0, 1, compile=True, **SHORT))  # noqa: B023
    assert len(interpreted) == 2
    assert len(found) == 2
    assert "more than 2 layouts" in found[0]


def test_shapes_that_depend_on_the_batch(
    interpreted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "_MAX_KINDS", 2)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -y * (2 if y.shape[0] > 4 else 1)

    found = []
    for batch in (3, 5, 7, 9):
        y0 = torch.ones(batch, 2)
        sols = []
        found += reasons(
            lambda: sols.extend(  # noqa: B023
                ic.solve(field, y0, 0, 1, compile=fast, **SHORT)  # noqa: B023
                for fast in (True, False)
            )
        )
        torch.testing.assert_close(sols[0].ys, sols[1].ys)
    assert len(found) == 2
    assert "more than 2 layouts" in found[0]


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def looks(t: Tensor, y: Tensor) -> Tensor:
    return -y if t.item() < 2 else y


def test_what_cannot_be_traced_is_not_tried_again(interpreted: list[str]) -> None:
    def solve(batch: int) -> list[str]:
        return reasons(lambda: ic.solve(looks, torch.ones(batch, 2), 0, 1, compile=True, **SHORT))

    first = solve(3)
    traced = traces_so_far()
    assert solve(3) == solve(4) == first
    assert traces_so_far() == traced
    assert "looks at values" in first[0]


def test_what_cannot_be_built_is_not_tried_again(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise BuildError("the compiler is out of order")

    monkeypatch.setattr(program, "built", fail)

    def solve() -> list[str]:
        return reasons(lambda: ic.solve(decay, torch.ones(3, 2), 0, 1, compile=True, **SHORT))

    first = solve()
    traced = traces_so_far()
    assert solve() == first
    assert traces_so_far() == traced
    assert "out of order" in first[0]


def test_a_gradient_that_cannot_be_built_is_not_tried_again(
    interpreted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = program.built

    def fail(traced: Any, passes: Any, cache: Any, what: str) -> Any:
        if what.startswith("the gradient"):
            raise BuildError("no gradients today")
        return inner(traced, passes, cache, what)

    monkeypatch.setattr(program, "built", fail)
    y0 = torch.ones(3, 2, requires_grad=True)
    traced = []
    for _ in range(2):
        with pytest.warns(ic.CompileWarning, match="no gradients today"):
            ic.solve(decay, y0, 0, 1, compile=True, **SHORT).ys.sum().backward()
        traced.append(traces_so_far())
    assert traced[0] == traced[1]
    assert not reasons(lambda: ic.solve(decay, y0, 0, 1, compile=True, **SHORT))
