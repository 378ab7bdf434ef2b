"""The equations of implicit stages, k_i = f(t_i, base + h sum_j a_ij k_j), and their Jacobian.

The Jacobian comes from differences of the field, not from automatic differentiation: a field may
be anything, also one that no graph goes through, and the steps have the same bits whether a graph
is recorded or not. Newton's method corrects what differences get wrong.

Samples of a batch seldom see each other. So one block is found for each sample, all of them at
once: one evaluation for each number in a sample, however many samples there are. Where samples do
depend on each other (batch normalisation), or a sample is too large for a matrix, the blocks are
not the Jacobian; Newton's method notices that it converges slowly, and turns to GMRES, for which
the blocks are the preconditioner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..base import Field
from .krylov import gmres
from .layout import Layout
from .newton import Means

__all__ = ["Counter", "Factors", "Setting", "StageEquations"]

_FEW_COLUMNS = 32
"""Numbers in a sample up to which a Jacobian is formed at once."""

_MOST_COLUMNS = 1024
"""Numbers in a sample beyond which no Jacobian is formed."""

_MOST_ENTRIES = 2**24
"""Entries of all samples' matrices beyond which none are formed: 128 MiB in double precision."""

_PRODUCTS = 80
"""Products with the Jacobian for one correction by GMRES."""

_INEXACT = 1e-4
"""Accuracy of one such correction; the next one takes up the rest."""


class Counter(Protocol):
    """Where work is counted."""

    jacobians: int
    linear_solves: int


class Setting(NamedTuple):
    """What the equations of all steps of a solve share.

    Attributes:
        field: the packed field over real vectors.
        layout: where samples lie.
        resolution: machine precision of each leaf in the field, shape (leaves,).
        root: the root of that for each number, shape (samples, size).
        noise: the root of the coarsest.
        counter: where to count matrices and systems.
    """

    field: Field
    layout: Layout
    resolution: Tensor
    root: Tensor
    noise: float
    counter: Counter

    @classmethod
    def of(
        cls,
        field: Field,
        layout: Layout,
        resolution: Sequence[float],
        like: Tensor,
        counter: Counter,
    ) -> Setting:
        """A setting for states of the dtype and on the device of `like`."""
        leaves = like.new_tensor(resolution)
        root = layout.spread(leaves.sqrt().expand(layout.samples, -1))
        return cls(field, layout, leaves, root, max(resolution) ** 0.5, counter)


class Factors:
    """I - h A (x) J, factorised: one matrix for each sample.

    Args:
        matrices: shape (samples, stages * size, stages * size).
        layout: of one stage's state.
    """

    def __init__(self, matrices: Tensor, layout: Layout) -> None:
        # A singular matrix gives values that are not finite, which Newton's method sees.
        self._lu, self._pivots, _ = torch.linalg.lu_factor_ex(matrices)
        self._layout = layout

    def solve(self, right: Tensor, transposed: bool = False) -> Tensor:
        """The solution for a right-hand side of shape (stages, N)."""
        layout, stages = self._layout, len(right)
        columns = layout.rows(right).transpose(0, 1).reshape(layout.samples, -1, 1)
        found = torch.linalg.lu_solve(self._lu, self._pivots, columns, adjoint=transposed)
        return layout.packed(found.view(layout.samples, stages, -1).transpose(0, 1))


class StageEquations:
    """The equations of one block of stages, for their slopes K of shape (stages, N).

    Everything here is real and without a graph.

    Args:
        setting: the field, and what belongs to it.
        times: the stages' times, 0-d tensors.
        base: what the stages' states start from, shape (N,).
        matrix: h times the block of a, shape (stages, stages).
        h: length of the step, signed.
    """

    linear = False

    def __init__(
        self, setting: Setting, times: Sequence[Tensor], base: Tensor, matrix: Tensor, h: float
    ) -> None:
        self.setting, self.field, self.layout = setting, setting.field, setting.layout
        self.times, self.base, self.matrix, self.length = times, base, matrix, abs(h)
        self.factors: Factors | None = None
        layout = self.layout
        stages, size = len(times), layout.size
        fits = size <= _MOST_COLUMNS and layout.samples * (stages * size) ** 2 <= _MOST_ENTRIES
        self.ladder: tuple[Means, ...] = (Means.MATRIX, Means.BOTH)
        if not fits:
            self.ladder = (Means.PLAIN, Means.KRYLOV)
        elif size > _FEW_COLUMNS:
            self.ladder = (Means.PLAIN, Means.KRYLOV, Means.MATRIX, Means.BOTH)
        self.price = float(size)
        self._floor = layout.largest(base.unsqueeze(0))
        self._tiny = torch.finfo(base.dtype).tiny
        self._unit: Tensor | None = None
        self._shift = 0.0

    def residual(self, x: Tensor) -> Tensor:
        """f(t_i, Y_i) - k_i at the slopes `x`."""
        self.at = self.base + self.matrix @ x
        self.slopes = torch.empty_like(x)
        for t, y, slope in zip(self.times, self.at, self.slopes, strict=True):
            slope.copy_(self.field(t, y))
        return self.slopes - x

    def refresh(self, shift: float = 0.0) -> None:
        """Form the matrices of Newton's method at the present iterate, by differences."""
        self._shift = shift
        if not self.ladder[-1].matrix:
            return
        self.setting.counter.jacobians += 1
        jacobians = torch.stack([self._jacobian(i) for i in range(len(self.times))])
        stages, samples, size, _ = jacobians.shape
        # Entry (i, j) of h A times the Jacobian of stage i, at [sample, i, :, j, :].
        blocks = self.matrix[:, None, :, None] * jacobians.transpose(0, 1).unsqueeze(3)
        square = blocks.reshape(samples, stages * size, stages * size)
        eye = torch.eye(stages * size, dtype=square.dtype, device=square.device)
        self.factors = Factors((1.0 + shift) * eye - square, self.layout)

    def preconditioned(self, residual: Tensor, transposed: bool = False) -> Tensor:
        """The correction by the matrices at hand; without any, by those of a constant field."""
        self.setting.counter.linear_solves += 1
        if self.factors is None:
            return residual / (1.0 + self._shift)
        return self.factors.solve(residual, transposed)

    def krylov(self, residual: Tensor) -> Tensor:
        """The correction by GMRES at the present iterate."""
        scale = self.layout.packed(self.layout.spread(self._scale(self.slopes)))
        found = gmres(
            lambda v: self._product(self.preconditioned(scale * v)) / scale,
            residual / scale,
            _INEXACT,
            _PRODUCTS,
        )
        return self.preconditioned(scale * found)

    def measure(self, correction: Tensor, x: Tensor) -> tuple[float, float]:
        """How far a correction moves the state: in units that stay, and in proportion to it.

        Each leaf of each sample is measured on its own; the largest counts.
        """
        moved = self.length * self.layout.largest(correction)
        scale = self._scale(x)
        if self._unit is None:
            first = torch.maximum(scale, moved)
            first = torch.where(first > 0, first, first.max())
            self._unit = torch.where(first > 0, first, torch.ones_like(first))
        sizes = torch.stack([moved / self._unit, moved / scale.clamp(min=self._tiny)])
        size, error = sizes.flatten(1).amax(1).tolist()
        return size, error

    def unsolved(self, correction: Tensor, x: Tensor, noise: float) -> Tensor:
        """Which samples were not solved for, when `correction` was the last: (samples,), bool."""
        moved = self.length * self.layout.largest(correction)
        broken: Tensor = ~moved.isfinite().all(-1)
        return broken if broken.any() else ~(moved <= noise * self._scale(x)).all(-1)

    def _scale(self, x: Tensor) -> Tensor:
        """The size of what a state is made of, where slopes are x."""
        return torch.maximum(self._floor, self.length * self.layout.largest(x))

    def _jacobian(self, stage: int) -> Tensor:
        """df/dy of one stage, a matrix for each sample: (samples, size, size)."""
        layout, t = self.layout, self.times[stage]
        at, slope = layout.rows(self.at[stage]), self.slopes[stage]
        increments = self._increments(at, stage)
        answers = slope.new_empty(layout.size, slope.numel())
        for column, answer in enumerate(answers):
            probe = at.clone()
            probe[:, column] += increments[:, column]
            answer.copy_(self.field(t, layout.packed(probe)))
        differences = layout.rows(answers) - layout.rows(slope)
        return (differences / increments.t().unsqueeze(-1)).permute(1, 2, 0)

    def _increments(self, at: Tensor, stage: int) -> Tensor:
        """How far to move each number: the root of its precision, in proportion to its size.

        A number much smaller than others in its leaf takes a part of their size, for rounding in
        the field goes with the larger ones. Where all of them vanish, the step's own change of
        the state is the only size there is.
        """
        setting, layout = self.setting, self.layout
        largest = layout.largest(self.at[stage : stage + 1])
        change = self.length * layout.largest(self.slopes[stage : stage + 1])
        size = torch.where(largest > 0, largest, change)
        size = torch.where(size > 0, size, torch.ones_like(size)) * setting.resolution**0.125
        length = setting.root * torch.maximum(at.abs(), layout.spread(size))
        moved = at + torch.copysign(length, at)
        return moved - at  # what the rounded sum really adds

    def _product(self, v: Tensor) -> Tensor:
        """The true (I - h A (x) J) v, with a directional difference for each stage."""
        directions = self.matrix @ v
        size = (self.layout.largest(directions) / self._scale(self.slopes)).max()
        if not size > 0:
            return v
        step = self.setting.noise / size.item()
        answers = [
            (self.field(t, y + step * w) - slope) / step
            for t, y, w, slope in zip(
                self.times, self.at.unbind(), directions, self.slopes, strict=True
            )
        ]
        return v - torch.stack(answers)
