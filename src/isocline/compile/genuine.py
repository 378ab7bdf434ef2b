"""Whether libraries are what their versions say, so that a version stands for their code.

A field calls into torch and other libraries, whose code is too much to look through. In another
process it is the same where the version is the same, unless somebody has replaced a function of
theirs, or a function answers by what is outside of the process: a file, a clock, the environment.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .natures import library

__all__ = ["TELLING", "Unsure", "demand_steady", "package_version", "settings", "surface"]


class Unsure(Exception):  # noqa: N818 (a reason)
    """What cannot be told from other things in another process."""


TELLING = frozenset(
    (
        *("eval", "exec", "compile", "open", "input", "id", "hash", "globals", "locals", "vars"),
        *("dir", "breakpoint", "memoryview", "__import__", "__dict__", "__globals__", "__code__"),
        *("modules", "import_module", "environ", "getenv", "_getframe", "f_back", "data_ptr"),
        *("load", "loadtxt", "genfromtxt", "fromfile", "from_file", "memmap", "hub", "ops"),
        *("random", "seed", "manual_seed", "initial_seed", "get_rng_state", "Generator"),
        *("backends", "cuda", "mps", "xpu", "accelerator", "distributed", "multiprocessing"),
    )
)
"""Names under which code finds what is not in the code: state of a process, files, a machine."""

_STEADY = frozenset(
    (
        *("torch", "numpy", "builtins", "math", "cmath", "functools", "itertools", "operator"),
        *("collections", "typing", "abc", "enum", "dataclasses", "numbers", "fractions"),
        *("contextlib", "copy", "warnings", "types", "string", "statistics", "_operator"),
        *("_functools", "_collections", "_collections_abc", "__future__"),
    )
)
"""Libraries whose functions answer by their arguments alone, those of `TELLING` left out."""

_SPACES = (
    torch,
    Tensor,
    torch.nn.functional,
    torch.nn.Module,
    torch.linalg,
    torch.special,
    torch.fft,
    torch.func,
    torch.autograd,
)
"""Where fields find functions, and these one another."""


def demand_steady(module: str | None, names: Iterable[str] = ()) -> None:
    """Raise Unsure unless a library's functions answer by their arguments alone.

    Args:
        module: its name.
        names: what is read from it.
    """
    root = (module or "").partition(".")[0]
    if root not in _STEADY:
        raise Unsure(f"functions of {root}")
    if told := TELLING.intersection((module or "").split("."), names):
        raise Unsure(f"{min(told)} of {module}")


@functools.cache
def package_version(root: str) -> str:
    """The version of the distribution that a package belongs to."""
    from importlib import metadata

    try:
        return metadata.version(root)
    except metadata.PackageNotFoundError:
        names = metadata.packages_distributions().get(root)
    if not names:
        raise Unsure(f"{root}, which has no version")
    return " ".join(f"{name} {metadata.version(name)}" for name in sorted(names))


def settings() -> tuple[Any, ...]:
    """What torch is told that a trace may depend on.

    Raises:
        Unsure: if something looks at every call of torch, or at every module's.
    """
    c: Any = torch._C
    if c._len_torch_function_stack() or c._len_torch_dispatch_stack():
        raise Unsure("a mode of torch")
    module = torch.nn.modules.module
    hooks = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")
    if any(getattr(module, name, None) for name in (*hooks, "_global_backward_pre_hooks")):
        raise Unsure("hooks of all modules")
    flags = (
        *("_get_mkldnn_enabled", "_get_deterministic_algorithms", "_get_nnpack_enabled"),
        *("_get_flash_sdp_enabled", "_get_mem_efficient_sdp_enabled", "_get_math_sdp_enabled"),
        *("_get_float32_matmul_precision", "_get_qengine", "_get_mkldnn_set_to_deterministic"),
    )
    told = tuple((name, str(getattr(c, name)())) for name in flags if hasattr(c, name))
    return str(torch.get_default_dtype()), torch.backends.mha.get_fastpath_enabled(), told


# --- surfaces ---------------------------------------------------------------------------------

_KNOWN: dict[int, tuple[Any, list[Any], str]] = {}
"""By id of a module or class: it, what it had, and the digest of that."""


def surface(spaces: Iterable[Any]) -> str:
    """A digest of which functions torch, and some modules and classes of libraries, have.

    Raises:
        Unsure: if one of them is somebody else's.
    """
    wanted = {id(space): space for space in (*_SPACES, *spaces)}
    faces = sorted((space.__name__, _surface_of(space)) for space in wanted.values())
    return hashlib.sha256(repr(faces).encode()).hexdigest()


def _surface_of(space: Any) -> str:
    entries = vars(space)
    values = list(entries.values())
    known = _KNOWN.get(id(space))
    if known is None or len(known[1]) != len(values) or any(map(_differ, known[1], values)):
        faces = [
            (name, _face(name, value))
            for name, value in entries.items()
            if not _is_inside(space, value)
        ]
        text = repr(sorted((name, face) for name, face in faces if face is not None))
        known = _KNOWN[id(space)] = (space, values, hashlib.sha256(text.encode()).hexdigest())
    return known[2]


def _is_inside(space: Any, value: Any) -> bool:
    """Whether an entry is a module inside of the module that has it: some come later."""
    if not isinstance(value, types.ModuleType):
        return False
    return value.__name__.startswith(f"{space.__name__}.")


def _differ(one: Any, other: Any) -> bool:
    return one is not other


def _face(name: str, value: Any) -> tuple[Any, ...] | None:
    """What tells an entry of a library from others there; None for what calls nothing."""
    value = _unwrapped(value)
    if isinstance(value, property):
        return tuple(_face(name, part) for part in (value.fget, value.fset))
    if isinstance(value, types.FunctionType):
        return _face_of_function(name, value)
    if isinstance(value, types.ModuleType):
        return "module", value.__name__
    if name.startswith("__"):
        return None
    kind = value if isinstance(value, type) else type(value)
    root = kind.__module__.partition(".")[0]
    foreign = not library(kind.__module__) and root not in _BESIDE
    if foreign or (kind is not value and root in ("unittest", "functools")):
        raise Unsure(f"{name}, which somebody replaced")
    if isinstance(value, (bool, int, float, str)):
        return (repr(value),)
    return (kind.__module__, kind.__qualname__, str(getattr(value, "__qualname__", "")))


def _unwrapped(value: Any) -> Any:
    """The function in what stands for one in a class."""
    if isinstance(value, (staticmethod, classmethod)):
        return value.__func__
    if isinstance(value, functools.cached_property):
        return value.func
    return value.__wrapped__ if isinstance(value, functools._lru_cache_wrapper) else value


def _face_of_function(name: str, function: types.FunctionType) -> tuple[Any, ...] | None:
    code = function.__code__
    if name in _REPLACED:
        return None
    if not code.co_filename.startswith(_folders()):
        raise Unsure(f"{name}, which somebody replaced")
    if name in _COUNTED:
        return None
    return (function.__qualname__, code.co_qualname, code.co_firstlineno)


_REPLACED = ("compile", "manual_seed")
"""What has nothing to do with how a field is traced: Lightning puts its own in the place of one,
and torch's compiler in that of the other."""

_COUNTED = ("__init__", "__setstate__")
"""What torch's compiler, once it has run, replaces in modules so as to count those that are made."""

_BESIDE = ("typing_extensions", "pybind11_builtins")
"""Libraries that torch's own names come from."""


@functools.cache
def _folders() -> tuple[str, ...]:
    """Where the code of libraries is."""
    places = [Path(torch.__file__).parent, *_standard()]
    beside = (sys.modules.get(name) for name in ("numpy", "typing_extensions"))
    files = [Path(str(module.__file__)) for module in beside if module is not None]
    places += [file.parent if file.stem == "__init__" else file for file in files]
    found = [f"{place}{os.sep}" if place.is_dir() else str(place) for place in places]
    return (*found, "<frozen ")


def _standard() -> list[Path]:
    """Files and folders of Python's own library; packages may be installed in a folder of it."""
    root = Path(os.__file__).parent
    return [path for path in root.iterdir() if not path.name.endswith("-packages")]
