"""Solves inside models that `torch.compile` compiles: one cut in the graph, and no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import isocline as ic

# Dynamo's own question about each tensor that is handed over where a graph is cut (torch 2.13).
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


class Counting(nn.Module):
    """A field that counts its evaluations in a plain attribute, as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.nfe = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.nfe += 1
        return torch.tanh(self.layer(y)) * t


class Model(nn.Module):
    """Layers before and after a solve, by a block or by the front door."""

    def __init__(self, block: bool, adjoint: ic.Adjoint | None = None) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(3, 3), nn.Linear(3, 2)
        self.block = ic.nn.ODEBlock(Counting(), adjoint=adjoint)
        self.by_block = block

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.before(x))
        if self.by_block:
            x = self.block(x)
        else:
            x = ic.solve(self.block.field, x, 0.0, 1.0, adjoint=self.block.adjoint).ys[-1]
        found: Tensor = self.after(torch.relu(x))
        return found


@pytest.fixture(autouse=True)
def _forget_compilations() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def check(model: Model, compiled: nn.Module, x: Tensor) -> None:
    """Values and gradients are those of the model that is not compiled."""
    weights = list(model.parameters())
    found, want = compiled(x), model(x)
    torch.testing.assert_close(found, want)
    pairs = [torch.autograd.grad(y.sin().sum(), weights) for y in (found, want)]
    torch.testing.assert_close(*pairs)


@pytest.mark.parametrize(
    ("block", "adjoint"),
    [(True, None), (False, None), (True, ic.Backsolve())],
    ids=["block", "solve", "backsolve"],
)
def test_it_is_compiled_once_and_once_more_for_batches_of_any_size(
    block: bool, adjoint: ic.Adjoint | None
) -> None:
    from torch._dynamo.testing import CompileCounter

    torch.manual_seed(0)
    model, counter = Model(block, adjoint), CompileCounter()
    compiled = torch.compile(model, backend=counter)
    for _ in range(3):
        check(model, compiled, torch.randn(4, 3))
    assert counter.frame_count == 2  # what comes before the solve, and what comes after
    for size in (5, 6, 7):
        check(model, compiled, torch.randn(size, 3))
    assert counter.frame_count == 4
    assert model.block.field.nfe > 0
    with torch.no_grad():
        torch.testing.assert_close(compiled(torch.ones(4, 3)), model(torch.ones(4, 3)))


def test_the_statistics_are_those_of_the_last_pass() -> None:
    model = Model(block=True)
    compiled = torch.compile(model, backend="eager")
    compiled(torch.ones(2, 3))
    assert model.block.nfe_forward == model.block.field.nfe > 0


def test_training_with_aot_autograd() -> None:
    model = Model(block=True)
    compiled = torch.compile(model, backend="aot_eager")
    check(model, compiled, torch.randn(4, 3))


@pytest.mark.slow
def test_inductor() -> None:
    model = Model(block=True)
    compiled = torch.compile(model)
    for size in (4, 4, 6):
        check(model, compiled, torch.randn(size, 3))
