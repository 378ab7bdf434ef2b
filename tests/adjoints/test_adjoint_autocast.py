"""Under bfloat16 autocast: the field is autocast forward and backward, the solver never."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic

from .adjoint_cases import FEW

# Gradients of a bfloat16 network agree between adjoints to its own precision and no better.
TOLERANCE = {"rtol": 0.1, "atol": 0.05}
STEPS: dict[str, Any] = {"solver": "rk4", "dt0": 0.25}


class Watched(nn.Module):
    """A linear field that notes the autocast it is called under."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 3)
        self.seen: list[bool] = []
        self.dtypes: set[torch.dtype] = set()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.seen.append(torch.is_autocast_enabled("cpu"))
        self.dtypes.add(y.dtype)
        out = self.net(y)
        assert out.dtype == torch.bfloat16
        return out.tanh()


def solve(field: Any, y0: Tensor, adjoint: Any) -> Tensor:
    return ic.solve(field, y0, 0.0, 1.0, adjoint=adjoint, **STEPS).ys[-1]


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
@pytest.mark.parametrize("name", FEW)
def test_the_field_sees_autocast_in_both_passes_and_the_state_stays_single(
    name: str, inside: bool
) -> None:
    field = Watched()
    with torch.autocast("cpu", torch.bfloat16):
        ys = solve(field, torch.ones(2, 3), FEW[name])
        loss = ys.sum()
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    assert ys.dtype == torch.float32
    assert field.dtypes == {torch.float32}
    assert all(field.seen)
    assert field.net.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("name", FEW)
def test_no_autocast_is_invented(name: str) -> None:
    """A field that runs in plain precision forward does so backward, whatever surrounds that."""
    net, seen = nn.Linear(3, 3), []

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return net(y)

    ys = solve(field, torch.ones(2, 3), FEW[name])
    with torch.autocast("cpu", torch.bfloat16):
        ys.sum().backward()
    assert not any(seen)


def gradients(adjoint: Any, wiring: str, inside: bool) -> list[Tensor]:
    """Of one linear layer that is used in the field and, as wired, before or after it."""
    torch.manual_seed(0)
    net, x = nn.Linear(3, 3), torch.ones(2, 3)
    field = lambda t, y: net(y).tanh()  # noqa: E731
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x).float() if wiring == "before" else x
        y = solve(field, y, adjoint)
        if wiring == "two solves":
            y = solve(field, y, adjoint)
        if wiring == "after":
            y = net(y)
        loss = y.float().sum()
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    return [net.weight.grad, net.bias.grad]


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
@pytest.mark.parametrize("wiring", ["alone", "before", "after", "two solves"])
@pytest.mark.parametrize("name", [name for name in FEW if name != "direct"])
def test_layers_around_the_solve_keep_their_gradients(name: str, wiring: str, inside: bool) -> None:
    """Autocast caches the cast weights of a region: nobody may find them without a graph."""
    want = gradients(FEW["direct"], wiring, inside)
    torch.testing.assert_close(gradients(FEW[name], wiring, inside), want, **TOLERANCE)


@pytest.mark.parametrize("name", FEW)
def test_a_solve_without_gradients_does_not_spoil_the_cache(name: str) -> None:
    net = nn.Linear(3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            solve(lambda t, y: net(y), torch.ones(2, 3), FEW[name])
        net(torch.ones(2, 3)).sum().backward()
    assert net.weight.grad is not None


@pytest.mark.parametrize("name", [name for name in FEW if name != "slots2"])
def test_half_precision_states_are_summed_in_single(name: str) -> None:
    """Many steps, each of which is below half a unit of the state's own precision."""
    y0 = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    ys = ic.solve(
        lambda t, y: torch.ones_like(y),
        y0,
        0.0,
        1.0,
        solver="euler",
        dt0=1 / 300,
        adjoint=FEW[name],
    ).ys
    assert ys.dtype == torch.bfloat16
    torch.testing.assert_close(ys[-1].float(), torch.full((2,), 2.0))
    ys.sum().backward()
    assert y0.grad.dtype == torch.bfloat16
    torch.testing.assert_close(y0.grad.float(), torch.ones(2))
