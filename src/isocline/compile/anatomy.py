"""What a callable is made of: whether a trace of it still holds, and the tensors to run it with.

A trace is valid for one code with one set of plain values: a field that was traced with `k = 2`
would go on computing with 2. Tensors are inputs of what is compiled; everything else that the
field visibly holds is remembered, and compared at the next solve. What the field itself changes
while it is evaluated, such as a counter, is left out.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
from collections import deque
from collections.abc import Iterator
from types import CodeType
from typing import Any

from torch import Tensor

from .sites import MISSING, Place, Site

__all__ = ["Anatomy"]

_LIMIT = 20_000
"""Sites after which a callable counts as too large to look through."""


class Anatomy:
    """What `dissect` found.

    Attributes:
        skeleton: kinds and codes, without plain values: hashable, equal for like callables.
        plain: plain values by path.
        sites: everything but tensors whose change makes a trace void.
        tensors: where tensors are; a tensor that was found twice stands there once.
        parameters: ids of those that are parameters or buffers of modules.
        opaque: what may change unseen, with its type.
        codes: the skeleton has their ids: kept, so that these stay theirs.
        holders, sequences, places: where code may leave something.
        written: the code of every function, with the module that it is from.
        named: modules that functions name, each with the names that may be read from it.
        untold: paths of what the skeleton and the plain values do not tell all of.
        fingerprint: a digest for other processes, once it was asked for.
    """

    def __init__(self) -> None:
        self.skeleton: list[tuple[str, Any]] = []
        self.plain: dict[str, Any] = {}
        self.sites: list[Site] = []
        self.tensors: list[Site] = []
        self.parameters: set[int] = set()
        self.opaque: list[tuple[str, str]] = []
        self.codes: list[Any] = []
        self.holders: list[dict[Any, Any]] = []
        self.sequences: list[list[Any] | deque[Any]] = []
        self.places: list[Place] = []
        self.written: list[tuple[str | None, CodeType]] = []
        self.named: list[tuple[str, tuple[str, ...]]] = []
        self.untold: list[str] = []
        self.fingerprint: str | None = None
        # What `held` compares, apart by kind: entries of dictionaries (these, keys, values), things
        # that have a length and their lengths, and all else.
        self._entries: tuple[list[dict[Any, Any]], list[Any], list[Any]] = ([], [], [])
        self._sized: tuple[list[Any], list[int]] = ([], [])
        self._slow: list[Site] = []

    def held(self) -> list[Tensor] | None:
        """The tensors, as `read`, if nothing has changed: what is asked before every solve."""
        holders, keys, values = self._entries
        sized, lengths = self._sized
        # Loops in C: a solve of a small field asks for a hundred entries and lengths.
        found = map(dict.get, holders, keys, itertools.repeat(MISSING))
        if not all(map(operator.is_, found, values)) or list(map(len, sized)) != lengths:
            return None
        return self.read() if all(site.same for site in self._slow) else None

    def changed(self) -> list[Site]:
        """The sites where something else is now."""
        return [site for site in self.sites if not site.same]

    def settle(self, volatile: frozenset[str]) -> None:
        """Leave out what the callable changes itself, and make `held` quick."""
        self._entries, self._sized, self._slow = ([], [], []), ([], []), []
        for site in self.sites:
            if site.path in volatile:
                continue
            holder, key = site.entry
            if holder is not None:
                for part, one in zip(self._entries, (holder, key, site.value), strict=True):
                    part.append(one)
            elif isinstance(site.read, functools.partial) and site.read.func is len:
                self._sized[0].append(site.read.args[0])
                self._sized[1].append(site.value)
            else:
                self._slow.append(site)

    @property
    def root(self) -> tuple[str, int]:
        """The first code or class that was met, and which of them it is."""
        tokens = (token for _, token in self.skeleton if isinstance(token, tuple))
        return next((t for t in tokens if t[0] in ("code", "instance")), ("other", 0))

    @property
    def too_large(self) -> bool:
        """Whether not everything was looked at."""
        return len(self.skeleton) > _LIMIT

    def key(self, volatile: frozenset[str]) -> tuple[Any, Any]:
        """Equal for callables that have a trace in common; `volatile` paths are left out."""
        if not volatile:
            return tuple(self.skeleton), tuple(self.plain.items())
        inside = tuple(f"{path}{mark}" for path in volatile for mark in ("[", "."))

        def kept(path: str) -> bool:
            return not (path in volatile or f"len({path})" in volatile or path.startswith(inside))

        skeleton = tuple(entry for entry in self.skeleton if kept(entry[0]))
        return skeleton, tuple(item for item in self.plain.items() if kept(item[0]))

    def read(self) -> list[Tensor] | None:
        """The tensors as they are now; None where one is gone."""
        found = [site.read() for site in self.tensors]
        return found if all(isinstance(tensor, Tensor) for tensor in found) else None

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Put everything back at the end: a trace leaves no counts and no fake tensors behind."""
        before = [(holder, dict(holder)) for holder in self.holders]
        elements = [(sequence, list(sequence)) for sequence in self.sequences]
        there = [(place, place.read()) for place in self.places]
        try:
            yield
        finally:
            for holder, entries in before:
                for key in set(holder) - set(entries):
                    del holder[key]
                for key, value in entries.items():
                    if holder.get(key, MISSING) is not value:
                        holder[key] = value
            for sequence, parts in elements:
                if list(map(id, sequence)) != list(map(id, parts)):
                    sequence.clear()
                    sequence.extend(parts)
            for place, value in there:
                if place.read() is not value:
                    place.write(value)
