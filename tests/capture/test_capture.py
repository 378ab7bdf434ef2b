"""Which tensors a field uses: found wherever they are, or an error; never a silent zero.

Every way to hold a tensor meets every adjoint, as a leaf and as computed; the quick suite runs a
share of the product (`pairwise`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import isocline as ic
from isocline.capture import capture
from isocline.problem import PackedField
from isocline.state import Packing

ADJOINTS = {
    "checkpointed": ic.Checkpointed(),
    "no_graphs": ic.Checkpointed(graph_budget=0),
    "slots2": ic.Checkpointed(slots=2),
    "backsolve": ic.Backsolve(rtol=1e-9, atol=1e-9),
    "interpolated": ic.Interpolated(),
}
CONTINUOUS = ("backsolve", "interpolated")
STEPS: dict[str, Any] = {"solver": "dop853", "rtol": 1e-9, "atol": 1e-9}
Build = Callable[[Tensor], tuple[Any, tuple[Any, ...]]]

WEIGHT = torch.tensor(0.0)  # a global that the fields below name
BOX: dict[str, Any] = {}


def compute(w: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return torch.tanh(w * y) - 0.1 * t * y


def gradient(build: Build, adjoint: Any, *, leaf: bool = True) -> Tensor:
    """Of a solve's end to a weight, or to what it was computed from."""
    source = torch.tensor([0.4, -0.9], dtype=torch.float64, requires_grad=True)
    field, args = build(source if leaf else source.exp() - 1.0)
    y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
    ys = ic.solve(field, y0, 0.0, 1.0, args=args, adjoint=adjoint, **STEPS).ys
    (found,) = torch.autograd.grad(ys.square().sum(), source)
    return found


def closure(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return compute(w, t, y)

    return field, ()


def lambda_default(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    return lambda t, y, w=w: compute(w, t, y), ()


def keyword_default(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    def field(t: Tensor, y: Tensor, *, w: Tensor = w) -> Tensor:
        return compute(w, t, y)

    return field, ()


def nested_function(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    def inner(y: Tensor) -> Tensor:
        return w * y

    def middle(y: Tensor) -> Tensor:
        return torch.tanh(inner(y))

    return lambda t, y: middle(y) - 0.1 * t * y, ()


def partial(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    return functools.partial(compute, w), ()


def partial_keyword(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    def field(t: Tensor, y: Tensor, scale: dict[str, Tensor]) -> Tensor:
        return compute(scale["w"], t, y)

    return functools.partial(field, scale={"w": w}), ()


class Holder:
    def __init__(self, w: Tensor) -> None:
        self.deep = {"list": [{"w": w}]}

    def method(self, t: Tensor, y: Tensor) -> Tensor:
        return compute(self.deep["list"][0]["w"], t, y)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return self.method(t, y)


def bound_method(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    return Holder(w).method, ()


def callable_object(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    return Holder(w), ()


def global_tensor(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    globals()["WEIGHT"] = w
    return lambda t, y: compute(WEIGHT, t, y), ()


def global_container(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    BOX["here"] = [w]
    return lambda t, y: compute(BOX["here"][0], t, y), ()


def argument(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    return lambda t, y, w: compute(w, t, y), (w,)


def nested_argument(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    return lambda t, y, k, box: compute(box["a"][1][0], t, y) * k, (1.0, {"a": (None, [w])})


class Scaled(nn.Module):
    """A tensor that is neither parameter nor leaf, as an attribute or a buffer."""

    def __init__(self, w: Tensor, *, buffer: bool) -> None:
        super().__init__()
        if buffer:
            self.register_buffer("w", w)
        else:
            self.w = w

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return compute(self.w, t, y)


def module_attribute(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    return Scaled(w, buffer=False), ()


def module_buffer(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    return Scaled(w, buffer=True), ()


def module_in_a_list(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    fields = [Scaled(w, buffer=True)]
    return lambda t, y: fields[0](t, 1 * y), ()


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


def custom_function(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    return lambda t, y: -Squared.apply(w * y), ()


def gradient_field(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    """A Hamiltonian's flow: autograd inside of the field."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            energy = (w * torch.sin(y)).sum() + y.prod()
            (slope,) = torch.autograd.grad(energy, y, create_graph=True)
        return torch.stack([slope[1], -slope[0]])

    return field, ()


def function_transform(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    def energy(y: Tensor, t: Tensor) -> Tensor:
        return (w * y).cosh().log().sum() - 0.05 * t * y.square().sum()

    return lambda t, y: torch.func.grad(energy)(y, t), ()


def vector_jacobian_product(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    def field(t: Tensor, y: Tensor) -> Tensor:
        value, pull = torch.func.vjp(lambda y: compute(w, t, y), y)
        return value + torch.func.vmap(lambda v: pull(v)[0])(torch.eye(2).to(y)).sum(0)

    return field, ()


def jacobian_vector_product(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.func.jvp(lambda y: compute(w, t, y), (y,), (y.cos(),))[1]

    return field, ()


def non_reentrant_checkpoint(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    from torch.utils.checkpoint import checkpoint

    return lambda t, y: checkpoint(compute, w, t, y, use_reentrant=False), ()


def returned_as_it_is(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    return lambda t, y: w, ()


def view_of_it(w: Tensor) -> tuple[Any, tuple[Any, ...]]:
    return lambda t, y: compute(w.flip(0)[:2].view(2), t, y), ()


BUILDS: dict[str, Build] = {
    build.__name__: build
    for build in (
        closure, lambda_default, keyword_default, nested_function, partial, partial_keyword,
        bound_method, callable_object, global_tensor, global_container, argument,
        nested_argument, module_attribute, module_buffer, module_in_a_list, custom_function,
        gradient_field, function_transform, vector_jacobian_product, jacobian_vector_product,
        non_reentrant_checkpoint, returned_as_it_is, view_of_it,
    )
}  # fmt: skip


@functools.cache
def direct(build: str, leaf: bool) -> Tensor:
    return gradient(BUILDS[build], ic.Direct(), leaf=leaf)


@pytest.mark.pairwise
@pytest.mark.parametrize("leaf", [True, False], ids=["leaf", "computed"])
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", ADJOINTS)
def test_the_tensor_is_found(name: str, build: str, leaf: bool) -> None:
    found = gradient(BUILDS[build], ADJOINTS[name], leaf=leaf)
    rtol = 1e-6 if name in CONTINUOUS else 1e-11
    torch.testing.assert_close(found, direct(build, leaf), rtol=rtol, atol=1e-12)


class LowRank(nn.Module):
    """LoRA: a frozen layer and a trained correction of low rank."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(2, 1, bias=False), nn.Linear(1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(2, 2)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(2, 2)).eval(),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(2, 2)),
    "low_rank": lambda: LowRank(nn.Linear(2, 2)),
    "scripted": lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)),
    "rnn": lambda: nn.GRUCell(2, 2),
    "attention": lambda: nn.TransformerEncoderLayer(2, 1, 4, dropout=0.0, batch_first=True),
}


def layer_gradients(kind: str, adjoint: Any, *, cached: bool) -> dict[str, Tensor | None]:
    torch.manual_seed(0)
    layer = LAYERS[kind]().double()
    y0 = torch.tensor([[1.0, 0.5], [0.2, -0.7]], dtype=torch.float64)
    options: dict[str, Any] = {"solver": "rk4", "dt0": 0.05, "adjoint": adjoint}

    def run() -> None:
        ys = ic.solve(lambda t, y: layer(y).tanh(), y0, 0.0, 1.0, **options).ys
        ys.square().sum().backward()

    if cached:
        with parametrize.cached():
            run()
    else:
        run()
    return {name: p.grad for name, p in layer.named_parameters()}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", ADJOINTS)
def test_layers_of_every_make(name: str, kind: str) -> None:
    want = layer_gradients(kind, ic.Direct(), cached=False)
    found = layer_gradients(kind, ADJOINTS[name], cached=False)
    rtol = 1e-3 if name in CONTINUOUS else 1e-9
    torch.testing.assert_close(found, want, rtol=rtol, atol=1e-5 if name in CONTINUOUS else 1e-12)


@pytest.mark.parametrize("name", ADJOINTS)
def test_a_parametrisation_that_is_cached_around_the_solve(name: str) -> None:
    want = layer_gradients("weight_norm", ic.Direct(), cached=True)
    found = layer_gradients("weight_norm", ADJOINTS[name], cached=True)
    torch.testing.assert_close(found, want, rtol=1e-3 if name in CONTINUOUS else 1e-9, atol=1e-5)


@pytest.mark.parametrize("field", [nn.Tanh(), nn.Linear(3, 3), nn.GRUCell(3, 3)], ids=repr)
def test_the_size_of_a_graph_is_what_autograd_saves(field: nn.Module) -> None:
    y = torch.randn(4, 3)
    packed = PackedField(lambda t, y: field(y).exp(), Packing.of(y))
    storages: dict[int, int] = {}

    def save(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    leaf = y.flatten().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        kept = packed(torch.tensor(0.0), leaf)
    weights = {weight.untyped_storage().data_ptr() for weight in field.parameters()}
    want = sum(size for pointer, size in storages.items() if pointer not in weights)
    assert kept.requires_grad
    assert capture(packed, torch.tensor(0.0), y.flatten()).graph_bytes == want > 0
