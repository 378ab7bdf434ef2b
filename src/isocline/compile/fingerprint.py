"""A digest of all that was found in a callable: what is equal in two processes for like ones alone.

In one process the identity of a code or class tells which it is. Another process has only what they
are made of: bytecode with its constants, names and versions of libraries. What such a description
leaves open (an object written in C, a class that cannot be found by its name) is not guessed:
`Unsure` says that there is no digest.
"""

from __future__ import annotations

import dis
import enum
import hashlib
import operator
import sys
import types
from fractions import Fraction
from types import EllipsisType, NoneType, NotImplementedType
from typing import Any

import torch
from torch import Tensor

from .anatomy import Anatomy
from .genuine import TELLING, Unsure, demand_steady, package_version, surface
from .natures import codes, installed, library
from .sites import PLAIN

__all__ = ["fingerprint", "plain"]

_IMPORT_NAME = dis.opmap["IMPORT_NAME"]

_MODULES_WITH_INSTANCES = ("torch.nn.", "torch.distributions.", "types.SimpleNamespace")
"""Where libraries' classes are whose objects hold nothing but attributes."""

_BASES = (object, dict, list, tuple)
"""Python's own classes of which the same is true."""

_BY_OWNER = (
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)


def fingerprint(anatomy: Anatomy) -> str:
    """The digest.

    Raises:
        Unsure: if there is none.
    """
    if anatomy.untold or anatomy.opaque or anatomy.too_large:
        raise Unsure("what it holds cannot all be told")
    reader = _Reader({id(thing): thing for thing in anatomy.codes})
    parts: list[Any] = [(path, reader.token(path, token)) for path, token in anatomy.skeleton]
    parts.append([(path, plain(value)) for path, value in anatomy.plain.items()])
    for module, code in anatomy.written:
        reader.called(module, code)
    for module, names in anatomy.named:
        reader.named(module, names)
    reader.demand_plain_names(anatomy)
    parts += [sorted(reader.versions), surface(reader.spaces.values())]
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()


def plain(value: Any) -> Any:
    """A plain value so that its `repr` tells all of it.

    Raises:
        Unsure: if it is not quite plain.
    """
    kind = type(value)
    if kind in (NoneType, bool, int, float, complex, str, bytes, EllipsisType):
        return kind.__name__, value
    if kind in (range, Fraction, torch.dtype, torch.device, torch.Size, torch.memory_format):
        return kind.__name__, repr(value)
    if kind is slice:
        return "slice", plain(value.start), plain(value.stop), plain(value.step)
    if kind is tuple:
        return "tuple", [plain(part) for part in value]
    if kind is frozenset:  # its order, which is another in another process, may be seen
        return "frozenset", [plain(part) for part in value]
    if isinstance(value, enum.Enum):
        return "enum", _enumeration(kind), value.name
    if isinstance(value, types.CodeType):
        return _code(value)
    raise Unsure(f"a {kind.__qualname__}")


def _code(code: types.CodeType) -> Any:
    """What a code does, wherever it is written."""
    numbers = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    constants = [plain(part) for part in code.co_consts]
    return "code", code.co_name, code.co_code, code.co_exceptiontable, numbers, names, constants


def _enumeration(kind: type) -> Any:
    """An enumeration that has nothing but members."""
    for cls in kind.__mro__:
        alone = issubclass(cls, enum.Enum) and not any(map(_does_something, vars(cls).values()))
        if not (alone or library(cls.__module__)):
            raise Unsure(f"the enumeration {kind.__qualname__}, which has methods")
    members: Any = kind.__members__  # type: ignore[attr-defined]
    values = [(name, plain(one.value)) for name, one in members.items()]
    return kind.__module__, kind.__qualname__, values


def _does_something(part: Any) -> bool:
    if isinstance(part, (staticmethod, classmethod)):
        part = part.__func__
    if isinstance(part, property):
        return True
    return isinstance(part, types.FunctionType) and not library(part.__module__)


class _Reader:
    """Reads the tokens of one anatomy.

    Attributes:
        spaces: classes and modules of libraries that it came across, by name.
        versions: of packages.
    """

    def __init__(self, things: dict[int, Any]) -> None:
        self._things = things
        self.spaces: dict[str, Any] = {}
        self.versions: set[tuple[str, str]] = set()

    def token(self, path: str, token: Any) -> Any:
        """A token of a skeleton without identities."""
        if isinstance(token, (str, int)):
            return token
        if isinstance(token, type):
            return token.__module__, token.__qualname__
        if len(token) == 2 and type(token[1]) is int and type(token[0]) is str:
            return token[0], self._identified(*token)
        if path.endswith("_hooks") and len(token) == 2 and token[1]:
            raise Unsure("hooks")
        return [self.token(path, part) if isinstance(part, type) else part for part in token]

    def _identified(self, kind: str, number: int) -> Any:
        """What stands for a thing of which a skeleton has the number."""
        if kind == "tensor":
            return number
        thing = self._things[number]
        if kind == "code":
            return _code(thing)
        return self._class(thing, instance=True) if kind == "instance" else self._thing(thing)

    # --- code -------------------------------------------------------------------------------

    def called(self, module: str | None, code: types.CodeType) -> None:
        """A function of some module."""
        if library(module):
            demand_steady(module, (code.co_name,))
        elif installed(module):
            self._package(module)
        else:
            for inner in codes(code):
                self._own(inner)

    def _own(self, code: types.CodeType) -> None:
        if told := TELLING.intersection(code.co_names):
            raise Unsure(f"what {min(told)} gives")
        if _IMPORT_NAME in code.co_code[::2]:
            for step in dis.get_instructions(code):
                if step.opcode == _IMPORT_NAME:
                    demand_steady(step.argval)  # one of somebody's own may not be there yet
                    self.named(step.argval, code.co_names)

    def named(self, module: str, names: tuple[str, ...]) -> None:
        """A module that a function reads from."""
        if not library(module):
            if installed(module):
                self._of_package(module, names)
            return
        demand_steady(module, TELLING.intersection(names))
        found = sys.modules.get(module)
        if found is None:
            raise Unsure(f"the module {module}")
        self.spaces[module] = found
        for name in names:
            part: Any = vars(found).get(name)
            if isinstance(part, types.ModuleType) and part.__name__ not in self.spaces:
                self.named(part.__name__, names)

    def demand_plain_names(self, anatomy: Anatomy) -> None:
        """Raise where attributes of a module of somebody's own may be read by names made up."""
        own = [code for module, code in anatomy.written if not _foreign(module)]
        modules = [module for module, _ in anatomy.named if not _foreign(module)]
        looked = any(
            {"getattr", "attrgetter"} & set(inner.co_names) for c in own for inner in codes(c)
        )
        if modules and looked:
            raise Unsure(f"attributes of {modules[0]}")

    def _package(self, module: str | None) -> None:
        root = (module or "").partition(".")[0]
        if root != "isocline":  # whose sources are part of every digest
            self.versions.add((root, package_version(root)))

    def _of_package(self, module: str, names: tuple[str, ...]) -> None:
        """What is read from a module of a package, which its version stands for."""
        self._package(module)
        root = module.partition(".")[0]
        for name in names if root != "isocline" else ():
            part: Any = vars(sys.modules[module]).get(name)
            known = isinstance(part, (*PLAIN, Tensor, types.ModuleType, types.BuiltinFunctionType))
            of_its_own = isinstance(part, (type, types.FunctionType)) and _foreign(part.__module__)
            if not (known or of_its_own):  # settings, say, or what somebody replaced
                raise Unsure(f"{name} of {module}")

    # --- things -----------------------------------------------------------------------------

    def _class(self, cls: type, *, instance: bool) -> Any:
        """A class by name; what those of a user's own define, the walk has found."""
        if not library(type(cls).__module__):
            raise Unsure(f"the class {cls.__qualname__} with a metaclass")
        if issubclass(cls, enum.Enum):
            return _enumeration(cls)
        for base in cls.__mro__:
            if not library(base.__module__):
                if installed(base.__module__):
                    self._package(base.__module__)
                continue
            if _found(base.__module__, base.__qualname__) is not base:
                raise Unsure(f"the class {base.__qualname__}")
            demand_steady(base.__module__)
            name = f"{base.__module__}.{base.__qualname__}"
            if base.__module__.startswith("torch"):
                self.spaces[name] = base
                self.spaces[base.__module__] = sys.modules[base.__module__]
            if instance and not (base in _BASES or _holds_attributes_alone(name)):
                raise Unsure(f"an object of {name}")
        return [(base.__module__, base.__qualname__) for base in cls.__mro__]

    def _thing(self, thing: Any) -> Any:
        """Something that has a name."""
        kind = type(thing)
        if isinstance(thing, type):
            return "class", self._class(thing, instance=False)
        if isinstance(thing, types.ModuleType):
            self.named(thing.__name__, ())
            return "module", thing.__name__
        if isinstance(thing, types.FunctionType):
            return self._by_name(thing, thing.__module__, thing.__name__)
        if isinstance(thing, types.BuiltinFunctionType):
            return self._builtin(thing)
        if isinstance(thing, _BY_OWNER):
            owner: Any = thing.__objclass__
            if vars(owner).get(thing.__name__) is not thing:
                raise Unsure(f"{thing.__name__} of {owner.__qualname__}")
            return kind.__name__, self._class(owner, instance=False), thing.__name__
        if kind in (torch.layout, torch.memory_format, EllipsisType, NotImplementedType):
            return kind.__name__, repr(thing)
        if isinstance(thing, torch._ops.OpOverload):
            space, _, rest = str(thing).partition(".")
            if space != "aten" or operator.attrgetter(rest)(torch.ops.aten) is not thing:
                raise Unsure(f"the operator {thing}")
            return "operator", str(thing)
        if kind.__module__ == "numpy" and kind.__name__ == "ufunc":
            return self._by_name(thing, "numpy", thing.__name__)
        raise Unsure(f"a {kind.__module__}.{kind.__qualname__}")

    def _builtin(self, thing: Any) -> Any:
        owner = thing.__self__
        if isinstance(owner, type):
            if getattr(owner, thing.__name__, None) != thing:
                raise Unsure(f"the function {thing.__name__}")
            demand_steady(owner.__module__, (thing.__name__,))
            return owner.__module__, owner.__qualname__, thing.__name__
        module = owner.__name__ if isinstance(owner, types.ModuleType) else thing.__module__
        return self._by_name(thing, module, thing.__name__)

    def _by_name(self, thing: Any, module: str | None, name: str) -> Any:
        """A function of a library that is there under its name."""
        demand_steady(module, (name,))
        found = _found(module, name)
        if found is not thing and found != thing:
            raise Unsure(f"the function {name} of {module}")
        return module, name


def _foreign(module: str | None) -> bool:
    return library(module) or installed(module)


def _holds_attributes_alone(name: str) -> bool:
    return name.startswith(_MODULES_WITH_INSTANCES) or name in (
        "collections.OrderedDict",
        "abc.ABC",
        "typing.Generic",
        "typing.Protocol",
    )


def _found(module: str | None, name: str) -> Any:
    """What has a name in a module."""
    try:
        return operator.attrgetter(name)(sys.modules[module or ""])
    except (AttributeError, KeyError):
        return None
