"""What `driver.cpp` is handed and hands back, as ctypes know it; the layouts stand there too."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from ctypes import Structure, c_double, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "FAILED",
    "Control",
    "Entry",
    "Frame",
    "Method",
    "Pull",
    "Report",
    "RoundPulls",
    "Rounds",
    "Task",
    "adopted",
    "adopted_all",
    "known",
]


FAILED = "a compiled step failed; its own words stand on stderr"


class Entry(Structure):
    """A compiled graph: the function that runs it, and what that is called with."""

    _fields_ = [("run", c_void_p), ("container", c_void_p)]


class Method(Structure):
    """What the loop must know of a method."""

    _fields_ = [
        *((name, c_int64) for name in ("fsal", "rows", "degree")),
        ("weights", c_void_p),
        ("centre", c_double),
    ]


class Frame(Structure):
    """What all solves of one field with one method and tolerance have in common."""

    _fields_ = [
        ("method", Method),
        *((name, Entry) for name in ("start", "step")),
        *((name, c_double) for name in ("rtol", "atol")),
        *((name, c_int64) for name in ("size", "wide", "of_step", "of_start")),
    ]


class Control(Structure):
    """Bounds of steps, and the settings of `PID`; for `Constant`, zeros."""

    _fields_ = [
        *((name, c_double) for name in ("min_step", "max_step")),
        *((name, c_double) for name in ("proportional", "integral", "derivative", "safety")),
        *((name, c_double) for name in ("factor_min", "factor_max", "order")),
        ("adaptive", c_int64),
    ]


class Task(Structure):
    """A solve."""

    _fields_ = [
        *((name, c_double) for name in ("t0", "t1", "h")),
        ("max_steps", c_int64),
        ("targets", c_void_p),
        ("target_count", c_int64),
        ("ts", c_void_p),
        ("ts_count", c_int64),
        ("keeps_t1", c_int64),
        ("out", c_void_p),
        *((name, c_int64) for name in ("records", "keeps", "kept")),
    ]


class Report(Structure):
    """How far a solve has come."""

    _fields_ = [
        ("status", c_int64),
        *((name, c_double) for name in ("t", "h")),
        *((name, c_int64) for name in ("accepted", "rejected", "rows", "saved_t1")),
    ]


class Pull(Structure):
    """A walk back."""

    _fields_ = [
        *((name, Entry) for name in ("replay", "kept", "start")),
        ("given", c_void_p),
        *((name, c_int64) for name in ("of_replay", "of_kept", "of_start", "totals")),
        ("cotangents", c_void_p),
    ]


class Rounds(Structure):
    """Rounds of per-sample stepping."""

    _fields_ = [
        ("round", Entry),
        *((name, c_void_p) for name in ("given", "from_")),
        *((name, c_int64) for name in ("inputs", "outputs", "t", "y", "lanes", "rest", "done")),
        ("least", c_double),
        *((name, c_int64) for name in ("most", "records")),
    ]


class RoundPulls(Structure):
    """A walk back over such rounds."""

    _fields_ = [
        ("pull", Entry),
        ("rounds", c_void_p),
        ("count", c_int64),
        ("given", c_void_p),
        ("after", c_int64),
    ]


_CAPSULE: Any = ctypes.pythonapi.PyCapsule_New
_CAPSULE.restype = ctypes.py_object
_CAPSULE.argtypes = [c_void_p, ctypes.c_char_p, c_void_p]


def known(tensors: Sequence[Tensor]) -> Any:
    """Tensors one after another, for a function that looks at them while they are held here."""
    return (c_void_p * len(tensors))(*[tensor._cdata for tensor in tensors])


def adopted(handle: int) -> Tensor:
    """The tensor of a handle, which is ours from now on."""
    return adopted_all([handle])[0]


def adopted_all(found: Iterable[int]) -> list[Tensor]:
    """The tensors of handles, which are ours from now on."""
    # The function of this name for a single handle copies it, and leaves it.
    stolen = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs
    tensors: list[Tensor] = stolen([_CAPSULE(handle, None, None) for handle in found])
    return tensors
