"""What is compiled: a field at one solve, what is asked of it, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..solvers.tableau import Tableau
from ..state import Packing
from .anatomy import Anatomy
from .building import Artifact
from .passes import Passes

__all__ = ["Asked", "KeptSteps", "Request", "Subject"]


class Asked(Protocol):
    """What is asked of a program besides the field and its tensors."""

    def matches(self, other: Any) -> bool:
        """Whether both ask for the same."""


class Request(NamedTuple):
    """What is asked of a program besides the field and its tensors.

    Attributes:
        tableau: the method.
        average: whether the norm is "rms".
        adaptive: whether an error ratio is wanted.
        vectors: whether the tolerances are packed vectors.
        stages: whether slopes are wanted.
        passes: rewritings of the graph.
    """

    tableau: Tableau
    average: bool
    adaptive: bool
    vectors: bool
    stages: bool
    passes: Passes

    def matches(self, other: Any) -> bool:
        """Whether both ask for the same."""
        if not isinstance(other, Request):
            return False
        return self.tableau is other.tableau and self[1:] == other[1:]


class Subject(NamedTuple):
    """A field at one solve.

    Attributes:
        func, args: the user's.
        packing: layout of the state.
        tensors: what the field may use.
        fixed: ids of those whose leading axis is no batch: parameters and buffers.
        anatomy: of `func`.
        of_args: of `args`; None if there are none.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    packing: Packing
    tensors: Sequence[Tensor]
    fixed: set[int]
    anatomy: Anatomy
    of_args: Anatomy | None


class KeptSteps(NamedTuple):
    """Steps that keep what their pull-back needs of them.

    Attributes:
        step: as a step that keeps nothing, with what is kept after its results.
        pull: from the cotangents of its end and its slopes to those of its start and the slope
            there; what was kept comes before the tensors of the field.
        start: from the cotangent of the slope at the start of a solve to that of the state there;
            None where steps do not begin with a slope.
        kept: how many tensors a step keeps.
        steps: how many fit the budget.
    """

    step: Artifact
    pull: Artifact
    start: Artifact | None
    kept: int
    steps: int
