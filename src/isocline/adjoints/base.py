"""The protocol of an adjoint: how a solve is differentiated.

An adjoint decides what is remembered of the forward pass, and computes gradients from it. It
calls `integrate`, which knows nothing of it. For who adds one: `run` is handed a checked problem
and plan and answers with rows that carry the gradient. The front door calls it wherever grad mode
is on or a transform of `torch.func` is at work, also if nothing turns out to require grad. Say
early and clearly, with a `GradientError` or an `InputError`, what it cannot do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple, NoReturn, Protocol

import torch
from torch import Tensor

from ..capture import Captured
from ..errors import GradientError
from ..integrate import Outcome
from ..problem import Plan, Problem, TimeTensors, autocast_off
from ..solution import Statistics
from ..solvers.base import DensePiece, Memory, Step
from ..transforms import unwrapped
from ..written import as_they_are
from .hooks import without_hooks

__all__ = [
    "Adjoint",
    "Cotangent",
    "Inputs",
    "ParameterGradients",
    "Trajectory",
    "backward_work",
    "check_single",
    "differentiated",
    "is_stack",
    "is_wanted",
    "once",
    "pulled_back",
    "stacked",
    "tensors_of_times",
]


@dataclass(slots=True)
class Trajectory:
    """A solve's packed answer, carrying its gradient.

    Attributes:
        outcome: status, times and counts.
        rows: saved states, shape (T, N); None if the outcome holds reduced ones.
        pieces: interpolants of the steps, where dense output was asked for.
    """

    outcome: Outcome
    rows: Tensor | None
    pieces: tuple[DensePiece, ...] = ()


class Adjoint(Protocol):
    """A way to differentiate a solve."""

    def run(self, problem: Problem, plan: Plan, stats: Statistics) -> Trajectory:
        """Solve, remember what the gradient needs, and count backward work into `stats`."""

    def keeps(self, steps: int, state: int, step: int) -> tuple[int, int]:
        """Estimated bytes kept until the backward pass, and needed besides during it.

        Args:
            steps: accepted steps.
            state: bytes of a state.
            step: bytes of what autograd keeps of one step.
        """


class Cotangent(NamedTuple):
    """The gradient of a loss with respect to where a step starts, or to where it ends.

    Attributes:
        y: of the state, shape (N,).
        slope: of the slope in the memory; None where the next step did not use it.
        carried: of the tensors that the memory carries; nothing at the end of the solve.
    """

    y: Tensor
    slope: Tensor | None = None
    carried: tuple[Tensor | None, ...] = ()

    def pair(self, step: Step) -> tuple[list[Tensor], list[Tensor]]:
        """The tensors at the end of `step` that have a cotangent, and those."""
        outputs, cotangents = self.pair_memory(step.memory)
        return [step.y1, *outputs], [self.y, *cotangents]

    def pair_memory(self, memory: Memory) -> tuple[list[Tensor], list[Tensor]]:
        """The same for a memory alone."""
        carried = zip(memory.carried, self.carried, strict=True) if self.carried else ()
        found = [
            (output, cotangent)
            for output, cotangent in [(memory.slope, self.slope), *carried]
            if output is not None and cotangent is not None
        ]
        return [output for output, _ in found], [cotangent for _, cotangent in found]


class ParameterGradients:
    """One buffer per captured tensor, which every step's contribution is added to."""

    def __init__(self, count: int) -> None:
        self.totals: list[Tensor | None] = [None] * count

    def add(self, contributions: Iterable[Tensor | None]) -> None:
        """Add one step's gradients, None where it did not depend on the tensor."""
        for i, gradient in enumerate(contributions):
            if gradient is None:
                continue
            total = self.totals[i]
            if total is None:
                # A step's own gradient may be a view or shared with another: do not write to it.
                self.totals[i] = gradient.clone()
            else:
                total.add_(gradient)


def pulled_back(
    outputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    inputs: Sequence[Tensor],
) -> tuple[Any, ...]:
    """Gradients of `inputs`: tensors, and None for those that nothing depends on.

    Outputs that depend on nothing (the slopes of a field of time alone) are left out. The graph
    is retained: a caller may ask for another gradient, and it may pass through a tensor that the
    field computed once, before the solve. Only a field that `torch.compile` made forbids it.
    """
    pairs = [pair for pair in zip(outputs, cotangents, strict=True) if pair[0].requires_grad]

    def pull(retain: bool) -> tuple[Any, ...]:
        return torch.autograd.grad(
            [output for output, _ in pairs],
            inputs,
            [cotangent for _, cotangent in pairs],
            allow_unused=True,
            retain_graph=retain,
        )

    try:
        return pull(True)
    except RuntimeError as error:
        # Said before anything is overwritten, unlike all other errors.
        if "donated buffers" not in str(error):
            raise
        return pull(False)


def differentiated(
    outputs: Sequence[Tensor | None],
    cotangents: Sequence[Tensor | None],
    inputs: Sequence[Tensor | None],
    *,
    create_graph: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of `inputs`, None where there is none; any of the tensors may be missing.

    The graph is retained, as in `pulled_back`.
    """
    pairs = [
        (output, cotangent)
        for output, cotangent in zip(outputs, cotangents, strict=True)
        if output is not None and output.requires_grad and cotangent is not None
    ]
    places = [i for i, tensor in enumerate(inputs) if tensor is not None and tensor.requires_grad]
    found: list[Tensor | None] = [None] * len(inputs)
    if pairs and places:
        gradients = torch.autograd.grad(
            [output for output, _ in pairs],
            [tensor for i in places if (tensor := inputs[i]) is not None],
            [cotangent for _, cotangent in pairs],
            allow_unused=True,
            retain_graph=True,
            create_graph=create_graph,
        )
        for i, gradient in zip(places, gradients, strict=True):
            found[i] = gradient
    return tuple(found)


class Inputs:
    """Which inputs of a solve are saved for the backward pass, and how.

    Those that a watched evaluation used are saved through autograd, so that changing one in place
    before the backward pass is an error. One that the field merely may use is held as it is: an
    optimiser step on a part of a larger model that the field never touches is no fault.

    The inputs are, in this order: y0, t0, t1 and ts (None where no gradient of a time is wanted),
    and what was captured. Tensors in `args` that require no grad are watched too.

    Args:
        captured: what the field depends on.
        args: tensors among the field's arguments.
    """

    def __init__(self, captured: Captured, args: Sequence[Tensor]) -> None:
        self.captured = captured.tensors
        self.written = captured.written
        self._used = captured.used
        self._args = args

    def without_unused(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients of all inputs; None in place of zeros for what no evaluation made use of."""
        leading, own = gradients[:4], gradients[4:]
        return [
            *leading,
            *(
                gradient if used or gradient is None or bool(unwrapped(gradient).any()) else None
                for gradient, used in zip(own, self._used, strict=True)
            ),
        ]

    def watched(self, every: Sequence[Tensor | None]) -> list[Tensor | None]:
        """What to save through autograd: the first four inputs lead."""
        used = [tensor for tensor, used in zip(self.captured, self._used, strict=True) if used]
        return [*every[:4], *used, *self._args]


@contextlib.contextmanager
def backward_work(inputs: Inputs, device: torch.device, stats: Statistics) -> Iterator[None]:
    """What a backward pass computes: timed, without a graph, and apart from what is the caller's.

    That is autocast, hooks, which are for whole gradients, and what the field writes into.
    """
    began = perf_counter()
    with (
        torch.no_grad(),
        autocast_off(device),
        without_hooks(inputs.captured),
        as_they_are(inputs.written),
    ):
        yield
    stats.wall_time_backward += perf_counter() - began


def check_single(name: str, cotangent: Tensor) -> None:
    """Refuse a stack of cotangents that `vmap` shows as one: an adaptive solve cannot be stacked.

    Args:
        name: of the adjoint.
        cotangent: of an output.

    Raises:
        GradientError: if it is one.
    """
    if is_stack(cotangent):
        raise GradientError(
            f"{name} solves for one cotangent at a time, since its steps depend on it: ask for "
            "a Jacobian without `is_grads_batched` or `vectorize`, or use `adjoint=Checkpointed()`."
        )


def is_stack(cotangent: Tensor) -> bool:
    """Whether it stands for many, as in the backward pass of `is_grads_batched`."""
    try:
        cotangent.untyped_storage()
    except (RuntimeError, NotImplementedError):
        return True
    return False


def is_wanted(inputs: Iterable[Tensor | None]) -> bool:
    """Whether any of them asks for a gradient."""
    return any(tensor is not None and tensor.requires_grad for tensor in inputs)


class _Once(torch.autograd.Function):
    """Hands a gradient on; differentiating it is an error."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *causes: Tensor | None) -> Tensor:  # noqa: ARG004
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> NoReturn:  # noqa: ARG004
        raise GradientError(
            "this gradient of a solve cannot itself be differentiated (a gradient penalty, a "
            "Hessian): the adjoint computed it without a graph. Use `adjoint=Checkpointed()` or "
            "`Direct()`, which can be differentiated any number of times."
        )


def once(
    gradients: Sequence[Tensor | None], causes: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Gradients that raise if they are differentiated, where the caller keeps a graph of them.

    `torch.autograd.function.once_differentiable` does so only if a cotangent requires grad;
    otherwise the second derivative would be silently zero.

    Args:
        gradients: what a backward pass found.
        causes: all that it depends on: the function's inputs and its cotangents.
    """
    if not torch.is_grad_enabled():
        return tuple(gradients)
    return tuple(
        None if gradient is None else _Once.apply(gradient, *causes)  # type: ignore[no-untyped-call]
        for gradient in gradients
    )


def tensors_of_times(times: TimeTensors | None) -> tuple[Tensor | None, ...]:
    """(t0, t1, ts) as inputs of an autograd function; None where no time requires grad."""
    return (None, None, None) if times is None else (times.t0, times.t1, times.ts)


def stacked(rows: list[Tensor], like: Tensor) -> Tensor:
    """Rows of an outcome as one matrix, shape (T, N); T may be 0."""
    return torch.cat(rows) if rows else like.new_empty(0, like.numel())
