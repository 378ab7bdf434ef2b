"""Checks of what is handed to `solve` with `stepping="per_sample"`.

Each failure names the argument, what was given, and what is expected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import InputError, InputTypeError
from .samples import PerSample
from .state import Packing, State, tree_leaves, tree_rebuild
from .validate import check_time, check_tolerance

__all__ = [
    "OutputTimes",
    "check_batch",
    "check_first_steps",
    "check_norms",
    "check_output_times",
    "check_sample_times",
    "check_tolerances",
]


def check_batch(y0: State, packing: Packing) -> int:
    """The number of samples.

    Raises:
        InputError: if the state has no axis of samples.
    """
    if packing.batch is None:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in tree_leaves(y0))
        raise InputError(
            "y0",
            f'shape {shapes} with stepping="per_sample"',
            "a state of two or more dimensions, whose leading one is the batch in every leaf",
            "Samples of one number each have the shape (batch, 1): `y0.unsqueeze(-1)`.",
        )
    return packing.batch


def check_sample_times(name: str, value: Any, batch: int, *, infinite: bool = False) -> Tensor:
    """A time for each sample, float64, shape (batch,), with its graph.

    Args:
        name: "t0" or "t1".
        value: a number, or a tensor of shape () or (batch,), which may be marked `PerSample`.
        batch: number of samples.
        infinite: whether a time may be infinite.
    """
    value = value.value if isinstance(value, PerSample) else value
    if not isinstance(value, Tensor) or value.numel() == 1 != batch:
        check_time(name, value, infinite=infinite)
        if not isinstance(value, Tensor):
            return torch.full((batch,), float(value), dtype=torch.float64)
        return value.reshape(1).double().expand(batch)
    if value.is_complex() or value.shape not in ((batch,), ()):
        given = f"{value.dtype} of shape {tuple(value.shape)}"
        raise InputError(name, given, f"a number, or a real tensor of shape ({batch},)")
    _demand_finite(name, value, infinite)
    return value.reshape(batch).double()


def _demand_finite(name: str, value: Tensor, infinite: bool = False) -> None:
    wrong = value.detach().isnan() if infinite else ~value.detach().isfinite()
    if bool(wrong.any()):
        index = tuple(wrong.nonzero()[0].tolist())
        raise InputError(name, f"{value.detach()[index].item()} at index {index}", "finite times")


class OutputTimes(NamedTuple):
    """Output times of each sample.

    Attributes:
        times: shape (batch, most times), float64, with a graph if they had one; what is beyond a
            sample's own number stands at its last time.
        lengths: how many times each sample has, shape (batch,).
    """

    times: Tensor
    lengths: Tensor


def check_output_times(
    ts: Any, lengths: Any, t0: Tensor, t1: Tensor, device: torch.device
) -> OutputTimes | None:
    """Output times in the order of each sample's solve and within its span.

    Args:
        ts: None; times for all samples, shape (times,); a padded matrix, shape (batch, times); or
            a sequence of one vector for each sample.
        lengths: how many times of a padded matrix count in each row; None for all.
        t0, t1: ends of the solves, shape (batch,).
        device: where to put them.
    """
    if ts is None:
        return None
    batch = len(t0)
    times, counts = _padded(ts, batch)
    if not times.numel():
        raise InputError("save.ts", "no times", "at least one time")
    if lengths is not None:
        counts = _lengths(lengths, times)
    times, counts = times.to(device, torch.float64), counts.to(device)
    number = torch.arange(times.shape[1], device=device)
    valid = number < counts.unsqueeze(1)
    known = times.detach()
    last = known.gather(1, (counts - 1).clamp(min=0).unsqueeze(1))
    last = torch.where(counts.unsqueeze(1) > 0, last, t0.detach().unsqueeze(1))
    _check_times(torch.where(valid, known, last), valid, t0.detach(), t1.detach())
    return OutputTimes(torch.where(valid, times, last), counts)


def _padded(ts: Any, batch: int) -> tuple[Tensor, Tensor]:
    """A matrix of times, and how many of each row count."""
    if isinstance(ts, Tensor):
        if ts.is_complex() or ts.ndim not in (1, 2) or (ts.ndim == 2 and len(ts) != batch):
            given = f"{ts.dtype} of shape {tuple(ts.shape)}"
            raise InputError("save.ts", given, f"real times of shape (T,) or ({batch}, T)")
        times = ts if ts.ndim == 2 else ts.expand(batch, -1)
        return times, torch.full((batch,), times.shape[1])
    if not isinstance(ts, Sequence) or isinstance(ts, (str, bytes)):
        expected = "a tensor, a sequence of numbers, or one of tensors"
        raise InputTypeError("save.ts", type(ts).__name__, expected)
    if ts and all(isinstance(row, Tensor) and row.ndim == 1 for row in ts):
        if len(ts) != batch:
            given = f"{len(ts)} vectors of times for {batch} samples"
            raise InputError("save.ts", given, "one for each sample")
        rows = [row.double() for row in ts]
        counts = torch.tensor([len(row) for row in rows])
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), counts
    shared = torch.tensor([check_time("save.ts", t) for t in ts], dtype=torch.float64)
    return shared.expand(batch, -1), torch.full((batch,), len(shared))


def _lengths(lengths: Any, times: Tensor) -> Tensor:
    """How many times of each row count, checked."""
    counts = torch.as_tensor(lengths).detach().cpu()
    batch, most = times.shape
    right = counts.shape == (batch,) and not counts.is_floating_point() and not counts.is_complex()
    if not right or bool(((counts < 0) | (counts > most)).any()):
        expected = f"{batch} whole numbers from 0 to {most}"
        raise InputError("save.lengths", f"{lengths}"[:80], expected)
    return counts.long()


def _check_times(times: Tensor, valid: Tensor, t0: Tensor, t1: Tensor) -> None:
    """Raise unless the times that count are finite, within the span, and in order."""
    if not bool(valid.any()):
        raise InputError("save.ts", "no times", "at least one time")
    sign = torch.where(t1 >= t0, 1.0, -1.0).unsqueeze(1)
    clocks, start, end = sign * times, sign * t0.unsqueeze(1), sign * t1.unsqueeze(1)
    outside = valid & ~((clocks >= start) & (clocks <= end) & clocks.isfinite())
    if bool(outside.any()):
        sample, number = outside.nonzero()[0].tolist()
        ends = f"t0 = {t0[sample].item()} and t1 = {t1[sample].item()}"
        given = f"{times[sample, number].item()} at index {number} of sample {sample}"
        raise InputError("save.ts", given, f"finite times between {ends}")
    turned = valid[:, 1:] & (clocks[:, 1:] < clocks[:, :-1])
    if bool(turned.any()):
        sample, number = turned.nonzero()[0].tolist()
        raise InputError(
            "save.ts",
            f"{times[sample, number].item()} followed by {times[sample, number + 1].item()} in "
            f"sample {sample}",
            "times in the order of the solve",
        )


def check_tolerances(name: str, value: Any, packing: Packing) -> float | Tensor:
    """A tolerance as a number or a matrix of shape (batch, width).

    Args:
        name: "rtol" or "atol".
        value: as in joint stepping, or `PerSample` with one number a sample.
        packing: layout of the state.
    """
    if isinstance(value, PerSample):
        numbers = _one_a_sample(name, value.value, packing)
        shaped = [numbers.reshape(-1, *[1] * (len(shape) - 1)) for shape in packing.shapes]
        value = shaped[0] if packing.single else tree_rebuild(packing.template, iter(shaped))
    found = check_tolerance(name, value, packing)
    if not isinstance(found, Tensor):
        return found
    parts = found.split(packing.sizes)
    rows = [part.reshape(packing.batch or 1, -1) for part in parts]
    return torch.cat(rows, dim=1)


def _one_a_sample(name: str, value: Any, packing: Packing) -> Tensor:
    if not isinstance(value, Tensor) or value.is_complex() or value.shape != (packing.batch,):
        given = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        expected = f"PerSample of a real tensor of shape ({packing.batch},)"
        raise InputError(name, f"PerSample with {given}", expected)
    return value


def check_first_steps(dt0: Any, packing: Packing) -> Tensor | None:
    """First steps as positive lengths, float64, shape (batch,)."""
    if dt0 is None:
        return None
    if isinstance(dt0, PerSample):
        steps = _one_a_sample("dt0", dt0.value, packing).detach().double()
    else:
        steps = torch.full((packing.batch or 1,), check_time("dt0", dt0), dtype=torch.float64)
    if not bool((steps.isfinite() & (steps > 0)).all()):
        raise InputError("dt0", f"{steps.min().item()}", "positive lengths")
    return steps.to(packing.device)


def check_norms(
    norm: Any, packing: Packing, unpack: Callable[[Tensor], State]
) -> Callable[[Tensor], Tensor]:
    """A norm of scaled errors, a matrix of shape (lanes, width): one number a lane.

    Args:
        norm: None or "max_rms", each sample's root mean square, or a function of a state of some of
            the samples that returns a number for each.
        packing: layout of the state.
        unpack: makes a state of a matrix.
    """
    if norm is None or norm == "max_rms":
        width = packing.size // (packing.batch or 1)
        return _SampleRMS(width)
    if isinstance(norm, str):
        raise InputError(
            "norm",
            f'{norm!r} with stepping="per_sample"',
            "'max_rms', which is each sample's own root mean square, or a function of the state",
        )
    if not callable(norm):
        raise InputTypeError("norm", type(norm).__name__, "a name or a function of the state")

    def own(errors: Tensor) -> Tensor:
        found = norm(unpack(errors))
        if not isinstance(found, Tensor) or found.shape != (len(errors),) or found.is_complex():
            given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                "norm", f"a function that returns {given}", f"real, shape ({len(errors)},)"
            )
        return found

    return own


class _SampleRMS:
    """Root mean square of each row."""

    def __init__(self, width: int) -> None:
        self._scale = width**-0.5

    def __call__(self, errors: Tensor) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(errors, dim=1) * self._scale
        return norms
