"""An artifact of AOTInductor in memory."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .binding import Entry

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
        found: list[Tensor] = self._runner.run(inputs)
        return found

    @functools.cached_property
    def _runner(self) -> Any:
        return torch._C._aoti.AOTIModelContainerRunnerCpu(self._path, 1)
