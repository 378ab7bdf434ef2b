"""Fields and comparisons that the tests of compiled steps share."""

from __future__ import annotations

import ctypes
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import isocline as ic
from isocline.compile.native.binding import Entry, adopted
from isocline.state import tree_leaves, tree_rebuild


def handles(tensors: Sequence[Tensor]) -> list[int]:
    """Handles of tensors, for one who takes them over, as an artifact hands out its results."""
    pointer: Any = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    capsules = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors(list(tensors))
    return [pointer(capsule, None) for capsule in capsules]


class Counting(nn.Module):
    """A small network that depends on time and counts its evaluations."""

    def __init__(self, dtype: torch.dtype = torch.float64, width: int = 8) -> None:
        super().__init__()
        layers = (nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))
        self.net = nn.Sequential(*layers).to(dtype)
        self.nfe = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.nfe += 1
        return self.net(y) * torch.cos(t)


def states(*shape: int) -> Tensor:
    """Random states in double precision: in float32 rounding takes part in choosing the steps."""
    return torch.randn(*shape, dtype=torch.float64)


_POINTERS = ctypes.POINTER(ctypes.c_void_p)

RUN = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    *(ctypes.c_void_p, _POINTERS, ctypes.c_size_t, _POINTERS, ctypes.c_size_t),
    *(ctypes.c_void_p, ctypes.c_void_p),
)
"""`AOTInductorModelContainerRun`: container, inputs and outputs with their numbers, two more."""


class Interpreted:
    """Runs a traced graph as it is: all that a compiled step does, but for the compiler.

    Attributes:
        entry: for the driver, which calls it as it calls machine code.
    """

    def __init__(self, graph: GraphModule) -> None:
        self.graph = graph
        self._callback = RUN(self._called)  # kept for as long as the driver may call it
        self.entry = Entry(ctypes.cast(self._callback, ctypes.c_void_p).value, None)

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return list(self.graph(*inputs))

    def _called(self, _: Any, inputs: Any, count: int, outputs: Any, room: int, *__: Any) -> int:
        """Inputs are taken over; outputs lie in memory of their own, one element after another."""
        try:
            with torch.no_grad():
                found = self.run([adopted(handle) for handle in inputs[:count]])
            assert len(found) == room
            unique = {id(x): x for x in found}
            owned = [x.clone(memory_format=torch.contiguous_format) for x in unique.values()]
            made = dict(zip(unique, handles(owned), strict=True))
            for place, x in enumerate(found):  # results that are one tensor have one handle
                outputs[place] = made[id(x)]
        except Exception:
            traceback.print_exc()
            return 1
        return 0


def answers(
    field: Callable[..., Any],
    y0: Any,
    watched: Sequence[Tensor] = (),
    *,
    grad: bool = True,
    dense_at: Sequence[float] = (0.07, 0.5, 0.93),
    **options: Any,
) -> tuple[list[Tensor], ic.Statistics]:
    """Saved states of a solve, gradients of y0 and of the watched tensors, and the statistics."""
    for tensor in watched:
        tensor.grad = None
    leaves = [leaf.detach().clone().requires_grad_(grad) for leaf in tree_leaves(y0)]
    sol = ic.solve(field, tree_rebuild(y0, iter(leaves)), 0.0, 1.0, **options)
    states = sol(torch.tensor(dense_at, dtype=torch.float64)) if sol.dense else sol.ys
    found = list(tree_leaves(states))
    if grad:
        # Weights of their own, so that no two elements of the answer can stand for one another.
        sum((x * torch.linspace(-1, 2, x.numel()).view(x.shape)).sum() for x in found).backward()
    gradients = [leaf.grad for leaf in leaves] + [tensor.grad for tensor in watched]
    kept = [g.clone() for g in gradients if g is not None]
    return [x.detach() for x in found] + kept, sol.stats


def same(one: Sequence[Tensor], other: Sequence[Tensor], ulps: float = 1e6) -> None:
    """Equal up to rounding: `ulps` units in the last place of the largest element.

    Rounding moves an error estimate, a difference of like numbers, and so the lengths of steps, by
    more than it moves a state; answers may differ by as much, but far less than the tolerance.
    """
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        error = (a - b).abs().max().item() / a.abs().max().item()
        assert error < ulps * torch.finfo(a.dtype).eps, error
