"""What a digest cannot tell for certain has none; what somebody replaced in a library is seen."""

from __future__ import annotations

import collections
import enum
import functools
import itertools
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import isocline as ic
from isocline.compile import genuine

from . import fingerprint_cases as cases
from .fingerprint_cases import digest


class Talking(enum.Enum):
    ONE = 1

    def times(self, y: Tensor) -> Tensor:
        return y * self.value


class Meta(type):
    rate = 2.0


class OfMeta(metaclass=Meta):
    pass


class Ours(dict[str, float]):
    """A container with behaviour; what it does is read like that of every class."""

    def __getitem__(self, key: str) -> float:
        return 2.0


def looked_up(t: Tensor, y: Tensor) -> Tensor:
    return y * float(os.environ.get("RATE", "1"))


def by_the_clock(t: Tensor, y: Tensor) -> Tensor:
    return y * time.time()


def by_chance(t: Tensor, y: Tensor) -> Tensor:
    return y * random.random()


def by_module(t: Tensor, y: Tensor) -> Tensor:
    return y * getattr(cases, "RA" + "TE")


def imports(t: Tensor, y: Tensor) -> Tensor:
    from tests.compile.fingerprint_cases import HELPER

    return y * len(HELPER)


def evaluates(t: Tensor, y: Tensor) -> Tensor:
    return y * eval("2.0")


def by_operator(t: Tensor, y: Tensor) -> Tensor:
    return torch.ops.aten.mul(y, 2.0)


def by_file(t: Tensor, y: Tensor) -> Tensor:
    return y * torch.load("rate.pt")


def by_threads(t: Tensor, y: Tensor) -> Tensor:
    return y * threading.active_count()


def by_settings(t: Tensor, y: Tensor) -> Tensor:
    return y * float(pytest.mark is None)


def holding(thing: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return y if thing is None else -y

    return field


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)
        self.net.register_forward_hook(lambda module, given, found: 2 * found)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


UNSURE: dict[str, Any] = {
    "the environment": looked_up,
    "a clock": by_the_clock,
    "chance": by_chance,
    "an attribute of a module by a name that is made": by_module,
    "a module that is imported on the way": imports,
    "code that is made": evaluates,
    "an operator of anybody's": by_operator,
    "a file": by_file,
    "other threads": by_threads,
    "an enumeration with methods": holding(Talking.ONE),
    "a class with a metaclass": holding(OfMeta()),
    "a partial of one's own": holding(type("Mine", (functools.partial,), {})(torch.tanh)),
    "settings of a package": by_settings,
    "a sentinel": holding(object()),
    "a pattern": holding(re.compile("a")),
    "a path": holding(Path("a")),
    "a set": holding({"a", "b"}),
    "a deque": holding(collections.deque([1.0], maxlen=1)),
    "a dict with a default": holding(collections.defaultdict(float)),
    "a dict with keys of any kind": holding({Talking.ONE: 1.0}),
    "a subclass of float": holding(type("Mine", (float,), {})(1.0)),
    "a cached function": holding(functools.cache(lambda x: x)),
    "a generator of random numbers": holding(torch.Generator()),
    "hooks": Hooked(),
}


@pytest.mark.parametrize("what", UNSURE)
def test_what_cannot_be_told_has_no_digest(what: str) -> None:
    assert digest(UNSURE[what], torch.ones(3, 2)) is None


SURE: dict[str, Any] = {
    "a module's function": math.sin,
    "a function of torch": torch.tanh,
    "a function of torch in Python": F.softplus,
    "one of two that share a code": F.max_pool1d,
    "the other one": F.max_pool2d,
    "a descriptor": Tensor.tanh,
    "a class of torch": nn.Linear,
    "an ordered dict": collections.OrderedDict(a=1.0),
    "a dict with behaviour": Ours(a=1.0),
    "a layout": torch.strided,
    "an activation": nn.GELU(),
    "a stack of layers": nn.ModuleList([nn.LayerNorm(2), nn.Conv1d(2, 2, 1)]),
    "an array": np.ones(2),
    "an array laid out otherwise": np.ones((2, 2))[:, 0],
    "a matrix of one row": np.ones((1, 2)),
    "a number of NumPy": np.float32(1.0),
    "a distribution": torch.distributions.Normal(torch.zeros(2), torch.ones(2)),
    "a model of isocline": ic.nn.MLPField(2, hidden=4),
    "a function that iterates": itertools.chain,
}


@pytest.mark.parametrize("what", SURE)
def test_what_can_be_told(what: str) -> None:
    found = digest(holding(SURE[what]), torch.ones(3, 2))
    others = {
        digest(holding(thing), torch.ones(3, 2)) for name, thing in SURE.items() if name != what
    }
    assert found is not None
    assert found not in others


# --- libraries in which somebody has replaced something ----------------------------------------


def doubled(module: Any, x: Tensor) -> Tensor:
    return 2 * x


REPLACED = {
    "a function of torch": (torch, "cos", doubled),
    "a function for another": (torch, "cos", torch.sin),
    "a function of torch that layers call": (F, "linear", doubled),
    "a function for another that layers call": (F, "softplus", F.softsign),
    "a layer's forward": (nn.Linear, "forward", doubled),
    "that of another layer": (nn.Tanh, "forward", nn.ReLU.forward),
    "a call of all layers": (nn.Module, "__call__", doubled),
    "a method of tensors": (Tensor, "__rsub__", doubled),
    "a module that layers read": (nn.modules.linear, "F", math),
    "a constant": (math, "pi", 3.0),
}


@pytest.mark.parametrize("what", REPLACED)
def test_what_is_replaced_in_a_library_is_seen(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 2), nn.Tanh())

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(y) * torch.cos(t) * math.pi

    field, y0 = Field(), torch.ones(3, 2)
    before = digest(field, y0)
    assert before is not None
    with monkeypatch.context() as patch:
        patch.setattr(*REPLACED[what])
        assert digest(field, y0) != before
    assert digest(field, y0) == before


def test_hooks_of_all_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    assert digest(nn.Tanh(), torch.ones(3, 2)) is not None
    handle = nn.modules.module.register_module_forward_hook(lambda *given: None)
    try:
        assert digest(nn.Tanh(), torch.ones(3, 2)) is None
    finally:
        handle.remove()


def test_a_package_that_has_no_version() -> None:
    with pytest.raises(genuine.Unsure, match="no version"):
        genuine.package_version("no_such_package_at_all")


def test_what_lightning_puts_in_the_place_of_torchs_own_is_no_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    field, y0 = nn.Linear(2, 2), torch.ones(3, 2)
    function = lambda t, y: field(y)  # noqa: E731
    before = digest(function, y0)
    assert before is not None
    monkeypatch.setattr(torch, "compile", lambda *given, **named: None)
    assert digest(function, y0) == before
