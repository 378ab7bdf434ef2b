"""Attempts to hide a tensor from the search: the gradient is right, or it is a `GradientError`.

Every hiding place meets every adjoint, leaf or computed, always or late; the quick suite runs a
share of the product (`pairwise`).
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextvars
import operator
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic

ADJOINTS = {
    "checkpointed": ic.Checkpointed(),
    "no_graphs": ic.Checkpointed(graph_budget=0),
    "backsolve": ic.Backsolve(rtol=1e-9, atol=1e-9),
    "interpolated": ic.Interpolated(),
}
STEPS: dict[str, Any] = {"solver": "dop853", "rtol": 1e-9, "atol": 1e-9}
Getter = Callable[[], Tensor]
Hide = Callable[[Tensor], Getter]

SPACE = types.SimpleNamespace()
VARIABLE: contextvars.ContextVar[Tensor] = contextvars.ContextVar("VARIABLE")


class Settings:
    weight: Tensor


def in_a_class_attribute(w: Tensor) -> Getter:
    Settings.weight = w
    return lambda: Settings.weight


def in_a_global_object(w: Tensor) -> Getter:
    SPACE.w = w
    return lambda: SPACE.w


def in_a_module_of_python(w: Tensor) -> Getter:
    module = types.ModuleType("hidden")
    module.w = w  # type: ignore[attr-defined]
    return lambda: module.w


def behind_getattr(w: Tensor) -> Getter:
    class Proxy:
        __slots__ = ()

        def __getattr__(self, name: str) -> Tensor:
            return store[name]

    store, proxy = {"w": w}, Proxy()
    return lambda: proxy.w


def behind_a_property(w: Tensor) -> Getter:
    class Lazy:
        @property
        def w(self) -> Tensor:
            return w

    lazy = Lazy()
    return lambda: lazy.w


def in_slots(w: Tensor) -> Getter:
    @dataclass(slots=True)
    class Slotted:
        w: Tensor

    held = Slotted(w)
    return lambda: held.w


def in_a_weak_reference(w: Tensor) -> Getter:
    SPACE.keep = w
    reference = weakref.ref(w)
    return lambda: reference() * 1.0


def in_a_dict_subclass(w: Tensor) -> Getter:
    class Box(dict):  # type: ignore[type-arg]
        def values(self) -> list[Any]:  # type: ignore[override]
            return []

    box = Box(w=w)
    return lambda: box["w"]


def on_a_dict_subclass(w: Tensor) -> Getter:
    class Box(dict):  # type: ignore[type-arg]
        w: Tensor

    box = Box()
    box.w = w
    return lambda: box.w


def as_a_key(w: Tensor) -> Getter:
    table = {w: None}
    return lambda: next(iter(table))


def in_a_deque(w: Tensor) -> Getter:
    queue = collections.deque([w])
    return lambda: queue[0]


def in_a_mapping_proxy(w: Tensor) -> Getter:
    proxy = types.MappingProxyType({"w": w})
    return lambda: proxy["w"]


def very_deep(w: Tensor) -> Getter:
    deep: Any = w
    for _ in range(12):
        deep = [deep]

    def get() -> Tensor:
        found = deep
        while isinstance(found, list):
            found = found[0]
        return found

    return get


def in_a_chain_of_functions(w: Tensor) -> Getter:
    def link(inner: Getter) -> Getter:
        return lambda: 1.0 * inner()

    get: Getter = lambda: w  # noqa: E731
    for _ in range(12):
        get = link(get)
    return get


def in_a_generator(w: Tensor) -> Getter:
    def forever() -> Iterator[Tensor]:
        while True:
            yield w

    generator = forever()
    return lambda: next(generator)


def in_thread_local(w: Tensor) -> Getter:
    local = threading.local()
    local.w = w
    return lambda: local.w


def in_a_context_variable(w: Tensor) -> Getter:
    VARIABLE.set(w)
    return VARIABLE.get


def in_c_callables(w: Tensor) -> Getter:
    get, table = operator.itemgetter("w"), {"w": w}
    return lambda: next(map(get, [table]))


def in_another_method(w: Tensor) -> Getter:
    class Model(nn.Module):
        def forward(self) -> Tensor:
            return self.helper()

        def helper(self) -> Tensor:
            return w

    return Model()


def in_a_modules_forward(w: Tensor) -> Getter:
    class Model(nn.Module):
        def forward(self) -> Tensor:
            return w

    return Model()


def through_an_object_array(w: Tensor) -> Getter:
    import numpy as np

    array = np.empty(1, dtype=object)
    array[0] = w
    return lambda: array[0]


def as_a_gradient(w: Tensor) -> Getter:
    carrier = torch.zeros_like(w, requires_grad=True)
    carrier.grad = w
    return lambda: carrier.grad


HIDES: dict[str, Hide] = {
    hide.__name__: hide
    for hide in (
        in_a_class_attribute, in_a_global_object, in_a_module_of_python, behind_getattr,
        behind_a_property, in_slots, in_a_weak_reference, in_a_dict_subclass,
        on_a_dict_subclass, as_a_key, in_a_deque, in_a_mapping_proxy, very_deep,
        in_a_chain_of_functions, in_a_generator, in_thread_local, in_a_context_variable,
        in_c_callables, in_another_method, in_a_modules_forward, through_an_object_array,
        as_a_gradient,
    )
}  # fmt: skip


def gradient(hide: str, adjoint: Any, *, leaf: bool, late: bool) -> Tensor:
    """Of a solve's end to the hidden tensor's source; a gradient that is missing is zero."""
    source = torch.tensor([0.4, -0.9], dtype=torch.float64, requires_grad=True)
    get = HIDES[hide](source if leaf else source.exp() - 1.0)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -y if late and t <= 0.5 else torch.tanh(get() * y) - y

    y0 = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
    controller = ic.PID(stops=(0.5,))
    options = {**STEPS, "controller": controller, "adjoint": adjoint}
    ic.solve(field, y0, 0.0, 1.0, **options).ys.square().sum().backward()
    return torch.zeros_like(source) if source.grad is None else source.grad


@pytest.mark.pairwise
@pytest.mark.parametrize("late", [False, True], ids=["always", "late"])
@pytest.mark.parametrize("leaf", [True, False], ids=["leaf", "computed"])
@pytest.mark.parametrize("hide", HIDES)
@pytest.mark.parametrize("name", ADJOINTS)
def test_a_hidden_tensor_is_found_or_refused(name: str, hide: str, leaf: bool, late: bool) -> None:
    want = gradient(hide, ic.Direct(), leaf=leaf, late=late)
    try:
        found = gradient(hide, ADJOINTS[name], leaf=leaf, late=late)
    except ic.GradientError:
        return
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ADJOINTS)
def test_a_branch_on_the_state_is_found_or_refused(name: str) -> None:
    """At (t0, y0) the other branch is taken: one evaluation cannot see the parameter."""

    def end(adjoint: Any) -> Tensor:
        source = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        SPACE.w = source
        y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
        field = lambda t, y: y * (SPACE.w if y > 1.5 else 1.0)  # noqa: E731
        ic.solve(field, y0, 0.0, 1.0, adjoint=adjoint, **STEPS).ys.sum().backward()
        return torch.zeros_like(source) if source.grad is None else source.grad

    want = end(ic.Direct())
    try:
        found = end(ADJOINTS[name])
    except ic.GradientError:
        return
    torch.testing.assert_close(found, want, rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", ADJOINTS)
def test_a_field_evaluated_in_another_thread(name: str) -> None:
    """Autograd numbers its nodes per thread: also those made by a backward pass on a GPU."""
    ballast = torch.ones(1, requires_grad=True)
    for _ in range(2000):
        ballast * 1.0
    weight = torch.tensor([0.4, -0.9], dtype=torch.float64, requires_grad=True)

    def slope(y: Tensor, grad: bool) -> Tensor:
        with torch.set_grad_enabled(grad):
            return torch.tanh(weight * y) - y

    def end(adjoint: Any) -> Tensor:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:

            def field(t: Tensor, y: Tensor) -> Tensor:
                return pool.submit(slope, y, torch.is_grad_enabled()).result() * 1.0

            y0 = torch.ones(2, dtype=torch.float64)
            loss = ic.solve(field, y0, 0.0, 1.0, adjoint=adjoint, **STEPS).ys.square().sum()
            return torch.autograd.grad(loss, weight)[0]

    torch.testing.assert_close(end(ADJOINTS[name]), end(ic.Direct()), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ADJOINTS)
def test_what_cannot_be_named_is_refused_or_right(name: str) -> None:
    """A computed tensor that only a generator holds, used where no watch over calls can see it."""

    def end(adjoint: Any) -> Tensor:
        source = torch.tensor([0.4, -0.9], dtype=torch.float64, requires_grad=True)
        get = in_a_generator(source.exp() - 1.0)

        def slope(y: Tensor, grad: bool) -> Tensor:
            with torch.set_grad_enabled(grad):
                return torch.tanh(get() * y) - y

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            field = lambda t, y: pool.submit(slope, y, torch.is_grad_enabled()).result()  # noqa: E731
            y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
            loss = ic.solve(field, y0, 0.0, 1.0, adjoint=adjoint, **STEPS).ys.square().sum()
            (found,) = torch.autograd.grad(loss, source, allow_unused=True)
        return torch.zeros_like(source) if found is None else found

    want = end(ic.Direct())
    try:
        found = end(ADJOINTS[name])
    except ic.GradientError:
        return
    torch.testing.assert_close(found, want, rtol=1e-6, atol=0)
