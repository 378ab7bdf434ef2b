"""Derivatives carried along a solve: of the state and of what a step hands on, by every input.

With S the derivative of the state at the start of a step by all inputs p, that at its end is
(dy1/dy) S + dy1/dp. A field may close over its inputs, so they cannot be put in its hands as dual
numbers; but autograd finds them in the graph of the step, as it does for a backward pass. From
that graph the product comes in one of two ways, whichever takes fewer directions: rows of dy1/dy
and dy1/dp by pulling back each output; or columns of the product by pushing each input forward,
which is the derivative of a pullback in its cotangent, on which it depends linearly.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

__all__ = ["Columns", "Products", "as_real"]


class Columns:
    """Which columns of a derivative belong to which input: one for each real number in it.

    Args:
        inputs: tensors; those that do not require grad, and None, have no columns.
    """

    def __init__(self, inputs: Sequence[Tensor | None]) -> None:
        self.inputs = inputs
        self.count = 0
        self._ends = [0]
        for tensor in inputs:
            if tensor is not None and tensor.requires_grad:
                self.count += as_real(tensor).numel()
            self._ends.append(self.count)

    def span(self, index: int) -> slice:
        """The columns of one input."""
        return slice(self._ends[index], self._ends[index + 1])

    def unit(self, index: int, first: int, last: int, like: Tensor) -> Tensor:
        """Derivative of one input by the inputs first ... last: (last - first, its size)."""
        span = self.span(index)
        rows = torch.arange(first, last, device=like.device).unsqueeze(1)
        return (rows == torch.arange(span.start, span.stop, device=like.device)).to(like)

    def gradients(self, total: Tensor) -> list[Tensor | None]:
        """A vector with an entry for each column, as tensors like the inputs."""
        found: list[Tensor | None] = []
        for index, tensor in enumerate(self.inputs):
            if tensor is None or not tensor.requires_grad:
                found.append(None)
                continue
            part = total[self.span(index)]
            if tensor.is_complex():
                part = torch.view_as_complex(part.reshape(-1, 2).contiguous())
            found.append(part.reshape(tensor.shape).to(tensor))
        return found


class Products:
    """Derivatives of outputs of a graph by all inputs.

    Args:
        columns: of all inputs.
        owned: those that a graph may reach by itself, with their places among all.
        chunk: how many directions to take at once.
    """

    def __init__(self, columns: Columns, owned: Sequence[tuple[int, Tensor]], chunk: int) -> None:
        self.columns, self.chunk = columns, chunk
        self._places = [place for place, _ in owned]
        self._inputs = [tensor for _, tensor in owned]
        self._batched = chunk > 1
        self._twice = True  # whether the graphs can be differentiated twice
        self._trusted: set[Hashable] = set()

    def __call__(
        self,
        outputs: Sequence[Tensor],
        leaves: Sequence[Tensor],
        tangents: Sequence[Tensor],
        kind: Hashable = None,
    ) -> list[Tensor]:
        """For each output its derivative, (columns, elements), complex numbers as pairs.

        Args:
            outputs: with a graph.
            leaves, tangents: where the graph starts, and their derivatives likewise.
            kind: the same for graphs of the same operations, such as their number.
        """
        with torch.enable_grad():
            flat = torch.cat([as_real(output).reshape(-1) for output in outputs])
        found = flat.new_zeros(self.columns.count, flat.numel())
        if flat.requires_grad:
            targets = [*leaves, *self._inputs]
            many = flat.numel() > self.columns.count
            pushed = many and self._twice and self._push(found, flat, targets, tangents)
            if pushed and kind not in self._trusted:
                self._trusted.add(kind)
                pushed = self._twice = self._agrees(found, flat, targets, tangents)
            if not pushed:
                self._pull(found.zero_(), flat, targets, tangents)
        return list(found.split([as_real(output).numel() for output in outputs], dim=1))

    def _pull(
        self, found: Tensor, flat: Tensor, targets: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> None:
        """By one pullback for each output."""
        eye = torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
        for first in range(0, len(flat), self.chunk):
            part = slice(first, first + self.chunk)
            pulled = self._gradients([flat], targets, [eye[part]])
            rows = [None if p is None else as_real(p).reshape(len(p), -1).to(found) for p in pulled]
            for row, tangent in zip(rows, tangents, strict=False):
                if row is not None:
                    found[:, part] += tangent @ row.t()
            for row, place in zip(rows[len(tangents) :], self._places, strict=True):
                if row is not None:
                    found[self.columns.span(place), part] += row.t()

    def _push(
        self, found: Tensor, flat: Tensor, targets: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> bool:
        """By one product with the Jacobian for each input; false where that is not possible."""
        try:
            self._twice = self._pushed(found, flat, targets, tangents)
        except RuntimeError:
            # A solve within the field, or a function whose derivative cannot be differentiated.
            # Any other fault comes again when outputs are pulled back.
            self._twice = False
        return self._twice

    def _pushed(
        self, found: Tensor, flat: Tensor, targets: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> bool:
        with torch.enable_grad():
            cotangent = torch.zeros_like(flat, requires_grad=True)
            pulled: tuple[Tensor | None, ...] = torch.autograd.grad(
                flat, targets, cotangent, create_graph=True, allow_unused=True
            )
            reached = [(i, p) for i, p in enumerate(pulled) if p is not None]
            rows = [as_real(p).reshape(-1) for _, p in reached]
        if not rows:
            return True
        if not all(row.requires_grad for row in rows):
            return False  # it depends on the cotangent, and hides how
        for first in range(0, self.columns.count, self.chunk):
            last = min(first + self.chunk, self.columns.count)
            directions = [
                self.columns.unit(self._places[i - len(tangents)], first, last, row)
                if i >= len(tangents)
                else tangents[i][first:last].to(row)
                for (i, _), row in zip(reached, rows, strict=True)
            ]
            (pushed,) = self._gradients(rows, [cotangent], directions)
            assert pushed is not None  # what was pulled back depends on the cotangent
            found[first:last] = pushed
        return True

    def _agrees(
        self, found: Tensor, flat: Tensor, targets: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> bool:
        """Whether what was pushed forward is what is pulled back: u (J S c) = (u J) (S c).

        A function of the user's whose derivative hides what it depends on would not say so.
        """
        u, c = (torch.arange(1, n + 1).to(found).mul(1.7).cos() for n in found.t().shape)
        pulled: tuple[Tensor | None, ...] = torch.autograd.grad(
            flat, targets, u, allow_unused=True, retain_graph=True
        )
        directions = [c @ tangent.to(found) for tangent in tangents]
        directions += [c[self.columns.span(place)] for place in self._places]
        total, size = found.new_zeros(()), found.new_zeros(())
        for row, direction in zip(pulled, directions, strict=True):
            if row is not None:
                flattened = as_real(row).reshape(-1).to(found)
                total += flattened @ direction
                size += flattened.abs() @ direction.abs()
        off = (total - u @ (c @ found)).abs()
        return bool(off <= torch.finfo(found.dtype).eps ** 0.5 * size)

    def _gradients(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], directions: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        """`torch.autograd.grad` for many cotangents, stacked along the first axis."""
        if self._batched:
            try:
                return torch.autograd.grad(
                    outputs,
                    inputs,
                    directions,
                    is_grads_batched=True,
                    allow_unused=True,
                    retain_graph=True,
                )
            except RuntimeError:
                # A backward pass that reads numbers on the host, as that of implicit steps does,
                # takes one cotangent at a time. Any other fault comes again below.
                self._batched = False
        each = [
            torch.autograd.grad(outputs, inputs, list(one), allow_unused=True, retain_graph=True)
            for one in zip(*directions, strict=True)
        ]
        return tuple(
            None if column[0] is None else torch.stack(column) for column in zip(*each, strict=True)
        )


def as_real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs, in an axis of their own."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
