"""What a piece of work costs: the bytes that it has allocated at once, at most."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._C._autograd import (
    _disable_profiler,
    _enable_profiler,
    _prepare_profiler,
    _profiler_enabled,
)
from torch._C._profiler import (
    ProfilerActivity,
    ProfilerConfig,
    ProfilerState,
    RecordScope,
    _ExperimentalConfig,
)

__all__ = ["peak_bytes"]


def peak_bytes(work: Callable[[], object], device: torch.device | str = "cpu") -> int | None:
    """The most bytes of tensors that `work` has alive at once, beyond those alive before.

    On the CPU every allocation of torch's is counted, exactly; on CUDA it is what torch's
    allocator saw (`torch.cuda.max_memory_allocated`, whose count starts anew).

    Returns:
        The bytes; None on another device, or while a profiler is at work, which can be only one.
    """
    device = torch.device(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu" or _profiler_enabled():
        return None
    return _most(_allocations(work))


def _allocations(work: Callable[[], object]) -> Iterator[int]:
    """Bytes allocated, or freed if negative, in order.

    `torch.profiler.profile(profile_memory=True)` records every operation besides, at 20 times the
    cost and 1.5 kB each; asked for the scope of the user's own marks, it records allocations alone.
    """
    config = ProfilerConfig(
        ProfilerState.KINETO, False, True, False, False, False, _ExperimentalConfig()
    )
    activities = {ProfilerActivity.CPU}
    with _silent():
        _prepare_profiler(config, activities)
        _enable_profiler(config, activities, {RecordScope.USER_SCOPE})  # type: ignore[call-arg]
        try:
            work()
        finally:
            found = _disable_profiler()
    # Typed loosely: the stubs of torch lack `nbytes`.
    events: list[Any] = [event for event in found.events() if event.name() == "[memory]"]
    yield from (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))


def _most(changes: Iterator[int]) -> int:
    live = most = 0
    for change in changes:
        live += change
        most = max(most, live)
    return most


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the profiler's own notes on stderr that it starts and stops."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "6")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
