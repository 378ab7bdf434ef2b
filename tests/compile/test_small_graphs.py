"""Small graphs as functions of our own compute what torch computes."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.compile import building
from isocline.compile.building import Artifact, built, lowered
from isocline.compile.cache import Cache
from isocline.compile.passes import Passes
from isocline.compile.small import emitted, suits
from isocline.compile.tracing import trace

from .compile_cases import Counting, answers, same, states

Body = Callable[..., tuple[Tensor, ...]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("small"))


def made(body: Body, given: Sequence[Tensor], cache: Cache, written: int = 0) -> Artifact:
    """A function of our own for a body."""
    traced = trace(body, given, written=written)
    assert suits(traced.graph)
    assert lowered(traced, Passes())[1] is not None, "it is left to Inductor"
    artifact = built(traced, Passes(), cache, "a test")
    assert artifact.entry is not None
    assert artifact.entry.container is None
    return artifact


def compare(body: Body, given: Sequence[Tensor], cache: Cache, rtol: float = 2**-20) -> None:
    artifact, before = made(body, given, cache), [x.clone() for x in given]
    for found, wanted in zip(artifact.run(list(given)), body(*given), strict=True):
        torch.testing.assert_close(found, wanted, rtol=rtol, atol=rtol, equal_nan=True)
        assert found.is_contiguous()
    assert all(torch.equal(x, y) or x.isnan().any() for x, y in zip(given, before, strict=True))


# --- element by element ------------------------------------------------------------------------

STRANGE = torch.tensor([0.0, -0.0, 1.0, -1.5, 3.7, torch.inf, -torch.inf, torch.nan, 1e-30])


def arithmetic(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (x + 2 * y, x - y, -x * y, x / y, 1 / y, x - 0.1, (x + 1).square() * (x + 1) ** 3)


def bounds(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    clamped = (x.clamp(min=-1), x.clamp(max=2), x.clamp(-1, 2))
    return (torch.maximum(x, y), torch.minimum(x, y), x.relu(), x.abs(), *clamped)


def questions(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    compared = [x < y, x <= y, x > y, x >= y, x == y, x != y, x < 0.5]
    both = [x.isfinite(), (x < 1) & (y > 0), (x < 1) | (y > 0), (x < 1).logical_not()]
    return (*(torch.where(one, x, y) for one in (*compared, *both)), torch.where(x > y, 1.0, -1.0))


def functions(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (x.exp(), y.abs().log(), x.sin(), x.cos(), x.tanh(), x.abs().sqrt(), x.sigmoid())


def mixed(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    wide = x.double()
    return (wide / 3, (wide * 0.1).float() + y, wide.sum().float() * y, wide < 0.3, y * wide[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("body", [arithmetic, bounds, questions, functions])
def test_operators_are_torchs(body: Body, dtype: torch.dtype, cache: Cache) -> None:
    """With what is not finite."""
    given = [x.flatten().to(dtype) for x in torch.meshgrid(STRANGE[:5], STRANGE, indexing="ij")]
    if body is functions:
        given = [x[:32].clone() for x in given]
    compare(body, given, cache)


def test_types_are_promoted_as_torch_does(cache: Cache) -> None:
    compare(mixed, [torch.randn(5), torch.randn(5)], cache)


# --- places and shapes -------------------------------------------------------------------------


def views(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    one, two = x.unbind(-1)
    turned = x.t() * 2
    return (
        one * two,
        (turned[:, 1:] + y[:2].unsqueeze(0)).contiguous(),
        (x.view(2, 3).t() - 1).reshape(-1),
        x[::2, 1] + y[-1],
        (turned.t() + x).view(-1)[2:5].contiguous(),
        y.expand(2, 3).clone() * y.unsqueeze(1)[:2],
    )


def joined(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    wide = torch.cat([x, y.unsqueeze(1), x * 2], 1)
    return (wide, torch.stack([y, y * y]), torch.stack([x[:, 0], y], 1), torch.cat([y, y[:1]]))


def sums(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    flags = (x < 3).all()
    return (x.sum(), x.sum(0), x.sum(1, keepdim=True) * x, x.mean(1), y.mean().sqrt(), flags)


def products(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    square = torch.outer(y, y)
    sum_of = x @ x.t() + (y.unsqueeze(1) @ x[:, :1].t()).t() + square
    return (x.t() @ x, square @ x, sum_of, torch.addmm(y, square.cos(), square.t().contiguous()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("body", [views, joined, sums, products])
def test_shapes_are_torchs(body: Body, dtype: torch.dtype, cache: Cache) -> None:
    compare(body, [torch.randn(3, 2, dtype=dtype), torch.randn(3, dtype=dtype)], cache)


def test_totals_are_added_to(cache: Cache) -> None:
    """In one loop with what is added, also where that is a sum of products or a view."""

    def body(x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        a.add_(x.t() @ y + (y.t() @ x).t())
        b.add_(x[1] * 2)
        c.add_(x.sum(0))
        return (x * y,)

    x, y = torch.randn(2, 40), torch.randn(2, 40)
    totals = [torch.randn(40, 40), torch.randn(40), torch.randn(40)]
    artifact = made(body, [x, y, *totals], cache, written=3)
    wanted = [total.clone() for total in totals]
    for _ in range(2):
        (result,) = body(x, y, *wanted)
        (found,) = artifact.run([x, y, *totals])
        torch.testing.assert_close(found, result)
        torch.testing.assert_close(totals, wanted)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("activation", [torch.tanh, torch.relu])
def test_layers_and_their_gradients(rows: int, activation: Any, cache: Cache) -> None:
    def body(x: Tensor, w: Tensor, b: Tensor, *totals: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaves = [one.detach().requires_grad_() for one in (x, w, b)]
            y = leaves[0]
            for _ in range(2):
                z = activation(torch.nn.functional.linear(y, *leaves[1:]))
                y = y + 0.3 * torch.nn.functional.linear(z, leaves[1])
            found = torch.autograd.grad(y.square().sum(), leaves)
        for total, one in zip(totals, found[1:], strict=True):
            total.add_(one)
        return (y.detach(), found[0])

    given = [torch.randn(rows, 21), torch.randn(21, 21) / 5, torch.randn(21)]
    totals = [torch.zeros(21, 21), torch.zeros(21)]
    wanted = [torch.zeros(21, 21), torch.zeros(21)]
    artifact = made(body, [*given, *totals], cache, written=2)
    results = body(*given, *wanted)
    torch.testing.assert_close(tuple(artifact.run([*given, *totals])), results)
    torch.testing.assert_close(totals, wanted)


# --- whole solves ------------------------------------------------------------------------------


class Prey(torch.nn.Module):
    """Lotka and Volterra's equations, with a season."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = torch.nn.Parameter(torch.tensor([1.5, 1.0, 3.0, 1.0], dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        (x, z), (a, b, c, d) = y.unbind(), self.rates.unbind()
        return torch.stack([a * x * (1 + 0.1 * torch.cos(t)) - b * x * z, d * x * z - c * z])


SOLVES: dict[str, dict[str, Any]] = {
    "closed form": {"field": Prey, "y0": torch.tensor([1.0, 2.0], dtype=torch.float64)},
    "one sample": {"field": Counting, "y0": states(1, 2), "solver": "dopri5"},
    "constant steps": {"field": Prey, "y0": states(2), "solver": "rk4", "dt0": 0.1},
    "output between": {"field": Counting, "y0": states(1, 2), "save": ic.SaveAt(ts=[0.3, 0.7])},
}


@pytest.mark.parametrize("name", SOLVES)
def test_solves_and_their_gradients_are_as_uncompiled(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("Inductor was asked")

    monkeypatch.setattr(building, "_compiled", never)
    options = {"rtol": 1e-8, "atol": 1e-10, **SOLVES[name]}
    if "dt0" in options:
        del options["rtol"], options["atol"]
    torch.manual_seed(0)
    field, y0 = options.pop("field")(), options.pop("y0")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ic.CompileWarning)
        found, _ = answers(field, y0, list(field.parameters()), compile=True, **options)
    wanted, _ = answers(field, y0, list(field.parameters()), **options)
    same(found, wanted)


# --- what is left to Inductor ------------------------------------------------------------------

LEFT: dict[str, tuple[Body, list[Tensor]]] = {
    "an operator that is not known": (lambda x: (x.erf(),), [torch.randn(3)]),
    "a long loop of a function of C": (lambda x: (x.exp(),), [torch.randn(100)]),
    "many numbers": (lambda x: (x * 2 + x.t(),), [torch.randn(300, 300)]),
    "a large product": (lambda x, y: (x @ y,), [torch.randn(2, 200), torch.randn(200, 2)]),
    "half precision": (lambda x: (x * 2,), [torch.randn(3, dtype=torch.bfloat16)]),
    "a result by columns": (lambda x: ((x * 2).t(),), [torch.randn(3, 2)]),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_not_for_it_is_left(name: str) -> None:
    assert emitted(trace(*LEFT[name]).graph) is None


def test_a_batch_of_any_size_is_left() -> None:
    traced = trace(lambda x: (x * 2,), [torch.randn(6, 2)], dynamic=[0], batch=6)
    assert not suits(traced.graph)


def test_what_is_read_after_a_write_is_left() -> None:
    def body(x: Tensor, total: Tensor) -> tuple[Tensor, ...]:
        total.add_(x)
        return (total * 2,)

    assert emitted(trace(body, [torch.randn(3), torch.randn(3)], written=1).graph) is None


def test_it_can_be_switched_off(artifacts: Path) -> None:
    traced = trace(lambda x: (x * 2,), [torch.randn(3)])
    artifact = built(traced, Passes(small=False), Cache(artifacts), "a test")
    assert artifact.entry is not None
    assert artifact.entry.container
