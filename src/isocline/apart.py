"""Whether a field treats samples apart, as per-sample stepping needs it.

There each sample has its own time, and those that are done leave the batch. A field in which
samples look at one another (batch normalisation while it trains, attention over the batch) would
answer differently then, and one that closes over a tensor with an entry for each sample could not
answer at all. Both show when it is asked about a few of the samples alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import InputError
from .samples import SampleField

__all__ = ["check_apart"]


def check_apart(field: SampleField, t: Tensor, y: Tensor, slopes: Tensor) -> None:
    """Ask the field about few samples, and compare with what it said of them among all.

    The last sample is asked about again, in another place, beside others that were moved a little:
    so it also shows where all samples start from one state. It costs one evaluation of two or three
    samples.

    Args:
        field: the field.
        t, y: clocks, shape (batch,), and states, shape (batch, width).
        slopes: the field there, detached.

    Raises:
        InputError: if the answer is another one.
    """
    batch = field.batch
    if batch == 1:
        return
    last = batch - 1
    few = [last, 0] if batch > 2 else [last, 0, last]  # never as many as there are
    samples = torch.tensor(few, device=y.device)
    with torch.no_grad():
        states = y.detach().index_select(0, samples)
        states[1:] += 0.01 * (1.0 + states[1:].abs())
        times = t.detach().index_select(0, samples).to(y.real.dtype)
        try:
            alone = field.at(samples)(times, states)[0]
        except (InputError, RuntimeError, ValueError, IndexError) as error:
            given = f"one that cannot be asked about {len(few)} samples alone"
            raise _coupled(given, str(error)) from error
    among = slopes[last]
    if not bool(among.isfinite().all()):
        return  # which the solve will say
    dtype = y.real.dtype if field.autocast is None else field.autocast.dtype
    near = torch.finfo(dtype).eps ** 0.5 * among.abs().max()
    if not bool((alone - among).abs().max() <= near):
        raise _coupled("one whose answer for a sample changes when other samples are beside it", "")


def _coupled(given: str, said: str) -> InputError:
    """What to say of a field that cannot be stepped sample by sample."""
    cause = f" It said: {said}" if said else ""
    return InputError(
        "field",
        f'{given}, with stepping="per_sample"',
        "a field that treats each sample for itself, whichever others it is asked about",
        "A tensor with an entry for each sample must reach it as `args=(isocline.PerSample(x),)`, "
        "not through a closure. A time of shape (batch,) must be spread by hand: "
        "`isocline.nn.time_like(t, y)`. Batch normalisation, attention over the batch and random "
        f'numbers need `.eval()` or stepping="joint".{cause}',
    )
