"""Copies of a field and all that it holds, to be tried without a trace left in the original."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from typing import Any

import torch
from torch import Tensor, nn

from ..holdings import held, named_globals

__all__ = ["Twins", "doubled"]


class Twins:
    """Makes copies; what is met twice, under one root or two, is copied once.

    A function is made anew with copies of what it closes over and of the globals that it names.
    Tensors become leaves.

    Args:
        double: make floating-point tensors float64, and complex ones complex128.
    """

    def __init__(self, *, double: bool) -> None:
        self.double = double
        self._memo: dict[int, Any] = {}
        self._originals: list[Any] = []  # kept alive, so that no `id` is used again

    def of(self, root: Any) -> Any:
        """A copy of `root`.

        Raises:
            Exception: whatever a part of it raises on being copied.
        """
        for tensor in held(root):
            if type(tensor) in (Tensor, nn.Parameter) and id(tensor) not in self._memo:
                self._remember(tensor, self._tensor(tensor))
        return self._copy(root)

    def _remember(self, original: Any, twin: Any) -> Any:
        self._originals.append(original)
        self._memo[id(original)] = twin
        return twin

    def _tensor(self, tensor: Tensor) -> Tensor:
        twin = tensor.detach().clone()
        if self.double:
            twin = doubled(twin)
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(twin, tensor.requires_grad)
        return twin.requires_grad_(tensor.requires_grad)

    def _copy(self, thing: Any) -> Any:
        if id(thing) in self._memo:
            return self._memo[id(thing)]
        if isinstance(thing, types.FunctionType):
            return self._function(thing)
        if isinstance(thing, types.MethodType):
            return types.MethodType(thing.__func__, self._copy(thing.__self__))
        if isinstance(thing, functools.partial):
            given = [self._copy(value) for value in thing.args]
            named = {name: self._copy(value) for name, value in thing.keywords.items()}
            return functools.partial(self._copy(thing.func), *given, **named)
        if isinstance(thing, (types.ModuleType, types.BuiltinFunctionType, type)):
            return thing
        if type(thing) in (tuple, list):
            return self._remember(thing, type(thing)(self._copy(part) for part in thing))
        if type(thing) is dict:
            parts = {key: self._copy(part) for key, part in thing.items()}
            return self._remember(thing, parts)
        return copy.deepcopy(thing, self._memo)

    def _function(self, function: types.FunctionType) -> Any:
        cells = [types.CellType() for _ in function.__closure__ or ()]
        names = {**function.__globals__}
        twin = types.FunctionType(function.__code__, names, function.__name__, None, tuple(cells))
        self._remember(function, twin)  # first: a function may close over itself
        for cell, original in zip(cells, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a cell that is still empty
                cell.cell_contents = self._part(original.cell_contents)
        names.update((name, self._part(value)) for name, value in named_globals(function))
        twin.__defaults__ = self._copy(function.__defaults__)
        twin.__kwdefaults__ = self._copy(function.__kwdefaults__)
        twin.__dict__.update(function.__dict__)
        return twin

    def _part(self, thing: Any) -> Any:
        """A copy; of a function that holds no tensor, and so need not be another, itself."""
        if isinstance(thing, types.FunctionType) and next(held(thing), None) is None:
            return thing
        return self._copy(thing)


def doubled(tensor: Tensor) -> Tensor:
    """In double precision, if it is a floating-point or complex tensor."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor
