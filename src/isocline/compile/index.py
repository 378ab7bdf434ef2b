"""What fields were compiled to in earlier processes, so that a new one need not trace them again.

An artifact is named by its graph, and to have the graph a field must be traced, which takes seconds
and half of torch's compiler. The index names it by what the graph was made from instead: the code
and the values of the field, the layout of its tensors and of the state, what is asked, the versions
of everything. Where one of these cannot be told with certainty the field is traced as ever.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..state import Packing, State
from .anatomy import Anatomy
from .building import Artifact, circumstances, rebuilt
from .cache import Cache
from .fingerprint import fingerprint, plain
from .genuine import Unsure, settings
from .signature import Signature, pattern
from .sizes import Size, sized, sizes_from
from .subjects import Subject

__all__ = ["Halves", "Index", "Outline", "Shelf"]


class Outline(NamedTuple):
    """What a trace of a step tells, besides its graph.

    Attributes:
        used: places of the tensors that are used.
        sizes: of the tensors that a step makes.
    """

    used: tuple[int, ...]
    sizes: tuple[Size, ...]

    def largest(self, batch: int | None) -> int:
        """Bytes of the largest tensor, for a batch of so many samples."""
        return max((sized(size, batch) for size in self.sizes), default=0)

    @property
    def plain(self) -> Any:
        """For the index; None where it cannot be kept there."""
        return {"used": self.used, "sizes": self.sizes} if _kept(self.sizes) else None


class Halves(NamedTuple):
    """What a trace of a step and its pull-back tells.

    Attributes:
        sizes: of the tensors that the step is to keep; None where there is no such step.
    """

    sizes: tuple[Size, ...] | None

    @property
    def plain(self) -> Any:
        """For the index; None where it cannot be kept there."""
        return {"sizes": self.sizes} if _kept(self.sizes or ()) else None


def _kept(sizes: Sequence[Size]) -> bool:
    return all(isinstance(size, tuple) for size in sizes)


class Shelf:
    """The entries of one field, as it is now.

    Args:
        digest: of everything that its traces depend on; None where that cannot be told. Then
            nothing is found, and nothing kept.
        cache: where the entries are.
    """

    def __init__(self, digest: str | None, cache: Cache) -> None:
        self.digest, self._cache = digest, cache

    def outline(self, count: int) -> Outline | None:
        """That of a step of a field with so many tensors."""
        found = self._find("outline")
        try:
            used, sizes = found["used"], sizes_from(found["sizes"])
            if sorted({*used} & {*range(count)}) == used:
                return Outline(tuple(used), sizes)
        except (KeyError, TypeError, ValueError):
            pass
        return None

    def halves(self, key: str) -> Halves | None:
        """What is known of kept steps."""
        found = self._find(key)
        try:
            sizes = found["sizes"]
            return Halves(None if sizes is None else sizes_from(sizes))
        except (KeyError, TypeError, ValueError):
            return None

    def artifact(self, key: str) -> Artifact | None:
        """A formula that was compiled."""
        found = self._find(key)
        return None if found is None else rebuilt(found, self._cache)

    def keep(self, key: str, found: Any) -> None:
        """Keep plain data under a key; None is not kept."""
        if self.digest is not None and found is not None:
            self._cache.note(self._name(key), found)

    def _find(self, key: str) -> Any:
        return None if self.digest is None else self._cache.noted(self._name(key))

    def _name(self, key: str) -> str:
        return hashlib.sha256(f"{self.digest} {key}".encode()).hexdigest()[:40]


class Index:
    """Finds the shelves of the fields that one program serves.

    Args:
        cache: where the entries are.
        kind: of the program.
        request: what is asked of it.
    """

    def __init__(self, cache: Cache, kind: str, request: Any) -> None:
        self._cache, self._kind, self._request = cache, kind, request

    def shelf(self, subject: Subject, layout: Signature, batched: Sequence[bool]) -> Shelf:
        """That of a field.

        Args:
            subject: the field.
            layout: of the state in its traces.
            batched: which tensors have the batch in their leading axis there.
        """
        try:
            told = (
                *(self._kind, _told(self._request), sys.version, _sources(), settings()),
                circumstances(self._request.passes),
                _state(layout),
                _anatomy(subject.anatomy),
                None if subject.of_args is None else _anatomy(subject.of_args),
                [_tensor(*each) for each in zip(subject.tensors, batched, strict=True)],
                pattern(subject.tensors),
                [id(tensor) in subject.fixed for tensor in subject.tensors],
            )
        except Unsure:
            return Shelf(None, self._cache)
        return Shelf(hashlib.sha256(repr(told).encode()).hexdigest(), self._cache)


def _anatomy(anatomy: Anatomy) -> str:
    """What a callable is, which must be what it was when it was looked through."""
    if anatomy.changed():
        raise Unsure("a field that has changed meanwhile")
    if anatomy.fingerprint is None:
        anatomy.fingerprint = fingerprint(anatomy)
    return anatomy.fingerprint


def _tensor(tensor: Tensor, batched: bool) -> Any:
    """What a trace sees of a tensor."""
    if type(tensor) not in (Tensor, torch.nn.Parameter) or vars(tensor):
        raise Unsure("a tensor that has more to it")
    shape = _shape(tensor.shape, batched)
    lies = None if batched else (tensor.stride(), tensor.is_neg(), tensor.is_conj())
    kinds = (type(tensor).__name__, str(tensor.dtype), str(tensor.layout), str(tensor.device))
    return kinds, shape, lies, tensor.requires_grad, tensor.is_leaf, tensor.is_inference()


def _shape(shape: torch.Size, batched: bool) -> tuple[Any, ...]:
    return ("batch", *shape[1:]) if batched else tuple(shape)


def _state(layout: Signature) -> Any:
    """What a trace sees of the layout of the state."""
    packing: Packing = layout.packing
    shapes = [_shape(shape, layout.dynamic) for shape in packing.shapes]
    kinds = (str(packing.dtype), [str(x) for x in packing.dtypes], str(packing.device))
    return layout.dynamic, shapes, packing.batch is not None, kinds, _tree(packing.template)


def _tree(template: State) -> Any:
    """A structure, without its leaves."""
    kind = type(template)
    if kind is dict:
        return [(plain(key), _tree(value)) for key, value in template.items()]
    if kind in (tuple, list):
        return kind.__name__, [_tree(value) for value in template]
    if template is not None:
        raise Unsure(f"a state that is a {kind.__name__}")
    return None


def _told(value: Any) -> Any:
    """What is asked, in plain data."""
    if isinstance(value, tuple):
        return type(value).__name__, [_told(part) for part in value]
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith("isocline."):
        named = [(one.name, _told(getattr(value, one.name))) for one in dataclasses.fields(value)]
        return type(value).__qualname__, named
    return plain(value)


@functools.cache
def _sources() -> str:
    """A digest of isocline's own code: its fields, layouts and formulas are part of every trace."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
