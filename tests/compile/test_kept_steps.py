"""Steps that keep what their pull-back needs: the gradients are those of steps taken again."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.compile import program, traces
from isocline.compile.splitting import Split
from isocline.compile.tracing import traces_so_far
from isocline.nn import PlanarField

from .compile_cases import Counting, states
from .conftest import interpret

ALL, NONE = 64 * 2**20, 0


@pytest.fixture(autouse=True, scope="module")
def _small_ones_too() -> Iterator[None]:
    """Steps of small states are kept too; tests share what is traced."""
    with pytest.MonkeyPatch.context() as patch:
        interpret(patch, driven=True)
        patch.setattr(program, "WORTH_KEEPING", 0)
        yield


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> list[Split | None]:
    """What graphs are split into in a test, before which nothing was traced."""
    interpret(monkeypatch, driven=True)
    found: list[Split | None] = []
    before = traces.split

    def split(*given: Any) -> Split | None:
        found.append(before(*given))
        return found[-1]

    monkeypatch.setattr(traces, "split", split)
    return found


def gradients(
    field: nn.Module, y0: Tensor, budget: int, t1: float = 1.0, **options: Any
) -> tuple[list[Tensor], ic.Solution]:
    """States, gradients of y0 and the weights, and the solution."""
    field.zero_grad()
    y0 = y0.detach().requires_grad_()
    options = {"solver": "bosh3", "rtol": 1e-4, "atol": 1e-5, "compile": True} | options
    sol = ic.solve(field, y0, 0.0, t1, adjoint=ic.Checkpointed(graph_budget=budget), **options)
    weights = torch.linspace(-1, 2, sol.ys.numel(), dtype=sol.ys.dtype).view_as(sol.ys)
    (weights * sol.ys).sum().backward()
    found = [y0.grad, *(x.grad for x in field.parameters() if x.requires_grad)]
    return [sol.ys.detach(), *(x.clone() for x in found if x is not None)], sol


def alike(one: list[Tensor], other: list[Tensor], tolerance: float = 1e-13, way: str = "") -> None:
    assert len(one) == len(other), way
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(
            a, b, rtol=tolerance, atol=tolerance, msg=lambda found: f"{way}: {found}"
        )


# Ways that share a trace follow one another.
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "bosh3": {
        "plain": {},
        "backward in time": {"t1": -1.0},
        "another start": {"dt0": 0.05},
        "stops": {"controller": ic.PI(stops=(0.4, 0.9))},
        "rejections": {"dt0": 1.0, "rtol": 1e-6, "atol": 1e-6},
        "constant": {"controller": ic.Constant(), "dt0": 0.125},
        "output between": {"save": ic.SaveAt(ts=[0.0, 0.3, 0.31, 0.7, 1.0], t1=True)},
    },
    "heuneuler": {
        "no slope handed on": {},
        "no slope, output between": {"save": ic.SaveAt(ts=[0.25, 0.6])},
    },
    "dop853": {"two errors": {"rtol": 1e-11, "atol": 1e-12}},
}


@pytest.mark.parametrize("solver", WAYS)
def test_gradients_are_those_of_steps_taken_again(solver: str, halves: list[Split | None]) -> None:
    torch.manual_seed(0)
    field, fsal = Counting(), int(solver == "bosh3")
    for way, options in WAYS[solver].items():
        y0, splits = states(3, 2), len(halves)
        expected, again = gradients(field, y0, NONE, solver=solver, **options)
        assert len(halves) == splits, way
        every, sol = gradients(field, y0, ALL, solver=solver, **options)
        kept = halves[-1]
        assert kept is not None, way
        alike(every, expected, way=way)
        steps = sol.stats.steps_accepted
        assert steps == again.stats.steps_accepted > 3, way
        assert sol.stats.nfe_backward == fsal, way
        some, mixed = gradients(field, y0, 3 * kept.bytes_kept(3), solver=solver, **options)
        alike(some, expected, way=way)
        each = again.stats.nfe_backward // steps
        assert mixed.stats.nfe_backward == (steps - 3) * each + fsal, way
        assert sol.stats.steps_rejected > 0 or way != "rejections"


def test_uncompiled_solves_agree() -> None:
    torch.manual_seed(1)
    field, y0 = Counting(), states(4, 2)
    options: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9, "save": ic.SaveAt(ts=[0.4, 1.0])}
    fast, _ = gradients(field, y0, ALL, **options)
    slow, _ = gradients(field, y0, ALL, **options | {"compile": False})
    alike(fast, slow, 1e-8)


class Energy(nn.Module):
    """A field that is a gradient itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            z = y if y.requires_grad else y.detach().requires_grad_()
            return -torch.autograd.grad(self.net(z).sum(), z, create_graph=True)[0] * (1 + t)


class Convolutions(nn.Module):
    """Convolutions with normalised groups."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(2, 4).double(), nn.Conv2d(4, 4, 3, padding=1).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(torch.relu(self.norm(y))))) - y


class Attention(nn.Module):
    """Attention over the places of a sample, beside a normalised weight."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True).double()
        self.mix = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4).double())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.attend(y, y, y)[0].tanh() - self.mix(y).sin() * t.cos()


class Still(nn.Module):
    """A field that does not see the state; with a weight that nothing else uses."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.randn(2, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return (self.rate * t.sin()).expand_as(y)


class Frozen(nn.Module):
    """Half of the weights do not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 6).double(), nn.Linear(6, 2).double()
        self.first.requires_grad_(False)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.second(torch.sigmoid(self.first(y) + t))


class Flow(nn.Module):
    """A planar flow with the closed form of its trace: a matrix of weights is laid out anew."""

    def __init__(self) -> None:
        super().__init__()
        self.field = PlanarField(2, 8, 4).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        v, divergence = self.field.with_divergence(t, y[:, :2])
        return torch.cat([v, -divergence.unsqueeze(1)], 1)


FIELDS = {
    "flow": (Flow, (3, 3)),
    "energy": (Energy, (3, 2)),
    "convolutions": (Convolutions, (2, 4, 5, 5)),
    "attention": (Attention, (3, 5, 4)),
    "still": (Still, (3, 2)),
    "frozen": (Frozen, (3, 2)),
    "one sample": (Counting, (1, 2)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_field(name: str, halves: list[Split | None]) -> None:
    torch.manual_seed(2)
    make, shape = FIELDS[name]
    field, y0 = make(), states(*shape)
    expected, _ = gradients(field, y0, NONE, solver="heuneuler")
    found, _ = gradients(field, y0, ALL, solver="heuneuler")
    assert halves[0] is not None
    alike(found, expected, 1e-12)


def test_what_costs_nothing_to_have_again_is_not_kept(halves: list[Split | None]) -> None:
    """Neither views of the state, nor what follows from weights alone, nor the step's length."""
    torch.manual_seed(3)
    one_stage: dict[str, Any] = {"solver": "euler", "controller": ic.Constant(), "dt0": 0.25}
    gradients(Attention(), states(3, 5, 4), ALL, **one_stage)
    (kept,) = halves
    assert kept is not None
    shapes = [tuple(fake.shape) for fake in kept.kept]
    assert shapes
    assert (4, 4) not in shapes  # the normalised weight
    assert () not in shapes
    assert len({id(fake.untyped_storage()) for fake in kept.kept}) == len(shapes)


def test_a_tanh_network_keeps_what_it_put_in_and_out_of_each_layer(
    halves: list[Split | None],
) -> None:
    gradients(Counting(width=16), states(3, 2), ALL)
    (kept,) = halves
    assert kept is not None
    # Three evaluations of a step: the first slope comes from the step before.
    a_stage = 3 * (2 + 16) + 3 * 2  # state and tanh; the product that is turned by cos(t) after
    sizes = kept.bytes_kept(3) // 8
    assert 3 * 3 * 18 <= sizes <= 3 * a_stage
    assert kept.bytes_kept(30) == 10 * kept.bytes_kept(3)


class InPlace(nn.Module):
    """It writes into a tensor that is needed on the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


def test_fields_that_write_in_place_have_their_steps_taken_again(
    halves: list[Split | None],
) -> None:
    torch.manual_seed(4)
    field, y0 = InPlace(), states(3, 2)
    found, _ = gradients(field, y0, ALL)
    assert halves == [None]
    slow, _ = gradients(field, y0, ALL, compile=False)
    alike(found, slow, 1e-9)


@pytest.mark.parametrize("budget", [NONE, 100])
def test_nothing_is_kept_where_nothing_may_be(budget: int) -> None:
    _, sol = gradients(Counting(), states(3, 2), budget)
    assert sol.stats.nfe_backward == 3 * sol.stats.steps_accepted


def test_small_tensors_are_computed_again(
    monkeypatch: pytest.MonkeyPatch, halves: list[Split | None]
) -> None:
    """The largest tensor of a step decides: what the layer in the middle gives for the batch.

    A field is traced once more for that at most: what was made for a large batch serves small ones.
    """
    monkeypatch.setattr(program, "WORTH_KEEPING", 8 * 8 * 10)
    for batches, split_at in (((9, 10, 8, 20), 1), ((10, 8, 20), 0)):
        interpret(monkeypatch, driven=True)
        halves.clear()
        field, traces = Counting(width=8), []
        for batch in batches:
            gradients(field, states(batch, 2), ALL)
            assert len(halves) == (len(traces) >= split_at)
            traces.append(traces_so_far())
        assert len(set(traces[split_at:])) == 1


def test_backward_twice_and_second_derivatives() -> None:
    torch.manual_seed(5)
    field, y0 = Counting(), states(3, 2).requires_grad_()

    def solved(fast: bool) -> Tensor:
        return ic.solve(field, y0, 0.0, 1.0, solver="bosh3", compile=fast).ys.pow(3).sum()

    loss = solved(True)
    first = torch.autograd.grad(loss, y0, retain_graph=True)
    assert torch.equal(torch.autograd.grad(loss, y0, retain_graph=True)[0], first[0])
    second = []
    for fast in (True, False):
        (gradient,) = torch.autograd.grad(solved(fast), y0, create_graph=True)
        second.append(torch.autograd.grad(gradient.square().sum(), y0)[0])
    torch.testing.assert_close(*second, rtol=1e-9, atol=1e-10)


def test_what_was_kept_goes_with_the_graph() -> None:
    field, y0 = Counting(width=64), states(64, 2)
    gradients(field, y0, ALL)
    gc.collect()

    def held() -> int:
        return sum(1 for x in gc.get_objects() if isinstance(x, Tensor))

    before = held()
    for _ in range(3):
        gradients(field, y0, ALL)
    gc.collect()
    assert held() <= before


def test_checkpointing_around_a_solve() -> None:
    """Activation checkpointing lets go of a solve between its passes."""
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(6)
    field, y0 = Counting(), states(3, 2).requires_grad_()

    def run(y: Tensor) -> Tensor:
        return ic.solve(field, y, 0.0, 1.0, solver="bosh3", compile=True).ys

    expected = torch.autograd.grad(run(y0).square().sum(), y0)[0]
    found = checkpoint(run, y0, use_reentrant=False)
    assert isinstance(found, Tensor)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), y0)[0], expected)
