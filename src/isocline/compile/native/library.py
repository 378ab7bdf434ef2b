"""The driver as a library: compiled once for a user, and linked to the torch that runs."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cache import Cache, CacheError
from .binding import known

__all__ = ["compiler", "counted", "driver", "link"]

_FOLDER = Path(__file__).parent

# Without contraction the loop's arithmetic is Python's, to the last bit.
_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-ffp-contract=off")

_LINKED = (
    "aoti_torch_new_tensor_handle",
    "aoti_torch_delete_tensor_object",
    "aoti_torch_get_data_ptr",
    "aoti_torch_create_tensor_from_blob",
    "aoti_torch_empty_strided",
)


@functools.cache
def driver() -> ctypes.CDLL | None:
    """The library, or None where there is no C++ compiler for it: steps then go through Python."""
    try:
        library = ctypes.CDLL(str(Cache().get(_key(), _built)))
        link(library)
    except (CacheError, OSError, AttributeError, subprocess.CalledProcessError):
        return None
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    library.isocline_data.restype, library.isocline_data.argtypes = ctypes.c_void_p, [pointer]
    probe = torch.empty(1)
    if library.isocline_data(known([probe])) != probe.data_ptr():
        return None  # a torch whose tensors are not what `known` takes them for
    for name, result, arguments in (
        ("begin", pointer, [*[pointer] * 4, whole]),
        ("drive", ctypes.c_int32, [pointer, ctypes.c_double, pointer]),
        ("resume", ctypes.c_int32, [*[pointer] * 3, whole]),
        ("culprit", pointer, [pointer]),
        ("count", whole, [pointer]),
        ("steps", None, [pointer] * 3),
        ("state", pointer, [pointer, whole]),
        ("pull", pointer, [pointer, pointer]),
        ("forget", None, [pointer]),
        ("free", None, [pointer]),
        ("skip", pointer, [pointer, ctypes.c_double, pointer]),
        ("take", None, [pointer] * 2),
        ("pull_rounds", pointer, [pointer]),
    ):
        function: Any = getattr(library, f"isocline_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def link(library: ctypes.CDLL) -> None:
    """Tell a library where torch's functions are.

    Raises:
        AttributeError: if this torch lacks one.
    """
    library.isocline_link.argtypes = [ctypes.c_void_p] * len(_LINKED)
    library.isocline_link(*_addresses())


@functools.cache
def _addresses() -> list[ctypes.c_void_p]:
    torch_cpu = ctypes.CDLL(_torch_library())
    return [ctypes.cast(getattr(torch_cpu, name), ctypes.c_void_p) for name in _LINKED]


def counted(tensors: Sequence[Tensor]) -> Any:
    """Handles of tensors, for one who takes them over."""
    pointers, handles = known(tensors), (ctypes.c_void_p * len(tensors))()
    kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)
    copy_of = kind(_addresses()[0].value or 0)
    for place in range(0, ctypes.sizeof(handles), ctypes.sizeof(ctypes.c_void_p)):
        if copy_of(ctypes.addressof(pointers) + place, ctypes.addressof(handles) + place):
            raise RuntimeError("a tensor cannot be handed over")
    return handles


def compiler() -> list[str]:
    """The C++ compiler with its arguments: what `CXX` names, or the system's."""
    given = shlex.split(os.environ.get("CXX", ""))  # it may have arguments, or begin with ccache
    return given or ["clang++" if sys.platform == "darwin" else "g++"]


def _built(workspace: Path) -> Path:
    found = workspace / "driver.so"
    command = [*compiler(), *_FLAGS, str(_FOLDER / "driver.cpp"), "-o", str(found)]
    subprocess.run(command, check=True, capture_output=True)
    return found


def _key() -> str:
    sources = [path for path in sorted(_FOLDER.iterdir()) if path.suffix in (".cpp", ".h")]
    parts = [*(path.read_text() for path in sources), *_FLAGS, sys.platform, platform.machine()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _torch_library() -> str:
    """The file that holds torch's C interface, which is loaded already."""
    folder = Path(torch.__file__).parent / "lib"
    return str(next(folder.glob("libtorch_cpu.*")))
