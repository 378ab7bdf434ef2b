"""A problem with a loss, tried again and again on inputs of its own, without a trace left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..adjoints import Adjoint
from ..adjoints.hooks import without_hooks
from ..capture import capture
from ..errors import GradientError, InputError
from ..holdings import held
from ..problem import Autocast, PackedField, SaveAt
from ..solution import Solution
from ..solvers.base import Solver
from ..state import Packing, State, tree_describe, tree_leaves, tree_rebuild
from .naming import named
from .twins import Twins, doubled

__all__ = ["Case", "Gradient", "Projection", "Question", "Trial", "in_place", "prepared"]

Gradient = dict[str, list[Tensor]]
"""By input: of y0 its leaves, of all else one tensor."""


class Question(NamedTuple):
    """What was asked: a solve, as `solve` takes it, and a loss of its solution."""

    field: Callable[..., State]
    y0: State
    t0: float | Tensor
    t1: float | Tensor
    args: tuple[Any, ...]
    loss: Callable[[Solution], Tensor]
    settings: dict[str, Any]


class Trial(NamedTuple):
    """One solve, differentiated."""

    gradient: Gradient
    solution: Solution
    seconds: float


@dataclass(frozen=True, slots=True)
class Case:
    """A question whose inputs are leaves, and nobody else's.

    Attributes:
        question: of the copies.
        inputs: what the loss is differentiated in, by name.
        solve: `isocline.solve`.
        copied: whether the field is a copy; else it is the caller's own, which could not be copied.
        evaluation: bytes of the graph of one evaluation of the field.
    """

    question: Question
    inputs: dict[str, list[Tensor]]
    solve: Callable[..., Solution]
    copied: bool
    evaluation: int

    @property
    def device(self) -> torch.device:
        """Where the state lives."""
        return self.inputs["y0"][0].device

    @property
    def dtype(self) -> torch.dtype:
        """The widest dtype of the state."""
        return Packing.of(self.question.y0).dtype

    def forward(self, adjoint: Adjoint | None = None, **changes: Any) -> tuple[Solution, Tensor]:
        """Solution and loss; `changes` to the settings."""
        asked = self.question
        solution = self.solve(
            asked.field, asked.y0, asked.t0, asked.t1, args=asked.args, adjoint=adjoint,
            **{**asked.settings, **changes},
        )  # fmt: skip
        value: Any = asked.loss(solution)
        if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
            raise InputError(
                "loss", f"a function that returns {tree_describe(value)}", "one real number"
            )
        return solution, value

    def run(self, adjoint: Adjoint, **changes: Any) -> Trial:
        """Solve and differentiate, from the caller's random state."""
        tensors = [tensor for group in self.inputs.values() for tensor in group]
        with self._undisturbed(), torch.enable_grad(), without_hooks(tensors):
            self._wait()
            began = perf_counter()
            solution, value = self.forward(adjoint, **changes)
            if not value.requires_grad:
                raise GradientError("the loss carries no gradient.")
            # Retained: a graph of the caller's may lie behind a tensor that nothing shows.
            found = torch.autograd.grad(value, tensors, allow_unused=True, retain_graph=True)
            self._wait()
            seconds = perf_counter() - began
        given = iter(found)
        gradient = {
            name: [_or_zeros(next(given), tensor) for tensor in group]
            for name, group in self.inputs.items()
        }
        return Trial(gradient, solution, seconds)

    def look(self) -> Solution:
        """Solve without a gradient."""
        with self._undisturbed(), torch.no_grad():
            return self.forward()[0]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _undisturbed(self) -> AbstractContextManager[None]:
        return _undisturbed(self.question, self.device, self.copied)


@contextmanager
def _undisturbed(asked: Question, device: torch.device, copied: bool) -> Iterator[None]:
    """Puts back the random state; and buffers, where the field is the caller's own."""
    mine = [] if copied else [t for t in held((asked.field, asked.args)) if not t.requires_grad]
    before = [tensor.clone() for tensor in mine]
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(mine, before, strict=True):
                if not torch.equal(tensor, value):
                    tensor.copy_(value)


def _or_zeros(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient.detach()


def prepared(
    asked: Question, solve: Callable[..., Solution], solver: Solver, *, double: bool
) -> Case:
    """The question on copies of all that it holds, in double precision or as it is.

    Raises:
        Exception: whatever a part of the field raises on being copied.
    """
    twins = Twins(double=double)
    field, args, loss = (twins.of(part) for part in (asked.field, asked.args, asked.loss))
    return _case(asked._replace(field=field, args=args, loss=loss), solve, solver, double, True)


def in_place(asked: Question, solve: Callable[..., Solution], solver: Solver) -> Case:
    """The question on the caller's own field, for one that cannot be copied."""
    return _case(asked, solve, solver, double=False, copied=False)


def _case(
    asked: Question, solve: Callable[..., Solution], solver: Solver, double: bool, copied: bool
) -> Case:
    inputs: dict[str, list[Tensor]] = {}
    leaves = [_leaf(leaf, double) for leaf in tree_leaves(asked.y0)]
    inputs["y0"] = leaves
    y0 = tree_rebuild(asked.y0, iter(leaves))
    save: SaveAt = asked.settings.get("save") or SaveAt()
    times: dict[str, Any] = {"t0": asked.t0, "t1": asked.t1, "ts": save.ts}
    for name, time in times.items():
        if isinstance(time, Tensor) and time.requires_grad:
            times[name] = time.detach().clone().requires_grad_()
            inputs[name] = [times[name]]
    settings = asked.settings
    if "ts" in inputs:
        settings = {**settings, "save": replace(save, ts=times["ts"])}
    asked = asked._replace(y0=y0, t0=times["t0"], t1=times["t1"], settings=settings)
    with _undisturbed(asked, leaves[0].device, copied):
        found, graph_bytes = _captured(asked, solver)
    inputs |= {name: [tensor] for name, tensor in found.items()}
    return Case(asked, inputs, solve, copied, graph_bytes)


def _leaf(leaf: Tensor, double: bool) -> Tensor:
    own = leaf.detach().clone()
    return (doubled(own) if double else own).requires_grad_()


def _captured(asked: Question, solver: Solver) -> tuple[dict[str, Tensor], int]:
    """What the field depends on, by name, and bytes of the graph of one evaluation."""
    packing = Packing.of(asked.y0)
    field = PackedField(asked.field, packing, asked.args, Autocast.ambient(packing.device))
    y0 = packing.pack(asked.y0).detach()
    start = y0.real.new_tensor(float(asked.t0))
    found = capture(field, start, y0, solver)
    roots = [("", asked.field), ("args", asked.args), ("solver", solver)]
    return named(roots, found.tensors), found.graph_bytes


class Projection:
    """The loss by default: a fixed pseudo-random combination of all that was saved."""

    def __init__(self) -> None:
        self._weights: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, solution: Solution) -> Tensor:
        """A real scalar, linear in the saved states."""
        saved = solution.ys
        if saved is None:
            saved = solution(solution.t_end)
        parts = [
            (self._of(place, leaf) * leaf).sum().real
            for place, leaf in enumerate(tree_leaves(saved))
        ]
        return torch.stack([part.double() for part in parts]).sum()

    def _of(self, place: int, leaf: Tensor) -> Tensor:
        key = (place, leaf.shape, leaf.dtype, leaf.device)
        if key not in self._weights:
            own = torch.Generator().manual_seed(place)
            dtype = torch.complex128 if leaf.is_complex() else torch.float64
            drawn = torch.randn(leaf.shape, dtype=dtype, generator=own)
            self._weights[key] = drawn.to(leaf.device, leaf.dtype)
        return self._weights[key]
