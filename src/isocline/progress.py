"""A progress bar for long solves, drawn by the package `rich` where it is installed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

from .errors import IsoclineError

__all__ = ["progress_bar"]


@contextlib.contextmanager
def progress_bar(wanted: bool, t0: float, t1: float) -> Iterator[Callable[[float], None] | None]:
    """A function to call with the time reached; None where no bar is wanted.

    Raises:
        IsoclineError: if a bar is wanted and `rich` is not installed.
    """
    if not wanted or t0 == t1:
        yield None
        return
    try:
        from rich.progress import Progress
    except ModuleNotFoundError:
        raise IsoclineError(
            "`progress=True` needs the package rich: `pip install rich`, or leave it out."
        ) from None
    span = abs(t1 - t0) if math.isfinite(t1) else None  # an event is to end the solve
    with Progress(transient=True) as bar:
        task = bar.add_task(f"solving to t = {t1:g}", total=span)
        yield lambda t: bar.update(task, completed=abs(t - t0))
