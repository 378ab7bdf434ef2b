"""An artifact in memory: of AOTInductor, or a small graph as a function of our own."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .binding import FAILED, Entry, adopted_all
from .library import counted, link

__all__ = ["Loaded"]


class Loaded:
    """A compiled graph, to be run from here or by the driver.

    Args:
        path: of the library.

    Raises:
        RuntimeError, OSError: if it cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        library = ctypes.CDLL(self._path)
        self._small: Any = getattr(library, "isocline_run", None)
        if self._small is not None:
            link(library)
            self._results = ctypes.c_int64.in_dll(library, "isocline_results").value
            run = ctypes.cast(self._small, ctypes.c_void_p)
            self.entry = Entry(run.value, None)
            return
        container = ctypes.c_void_p()
        create: Any = library.AOTInductorModelContainerCreateWithDevice
        create.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_char_p]
        if create(ctypes.byref(container), 1, b"cpu", None):
            raise RuntimeError(f"the model in {self._path} cannot be made")
        run = ctypes.cast(library.AOTInductorModelContainerRun, ctypes.c_void_p)
        # Neither the library nor the container goes: programs are kept for the process's life.
        self.entry = Entry(run.value, container.value)

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        """Its outputs."""
        if self._small is not None:
            return self._run_small(inputs)
        found: list[Tensor] = self._runner.run(inputs)
        return found

    def _run_small(self, inputs: list[Tensor]) -> list[Tensor]:
        count, results = len(inputs), (ctypes.c_void_p * self._results)()
        sizes = (ctypes.c_size_t(count), ctypes.c_size_t(self._results))
        handles = counted(inputs)
        if self._small(None, handles, sizes[0], results, sizes[1], None, None):
            raise RuntimeError(FAILED)
        return adopted_all([handle or 0 for handle in results])

    @functools.cached_property
    def _runner(self) -> Any:
        return torch._C._aoti.AOTIModelContainerRunnerCpu(self._path, 1)
