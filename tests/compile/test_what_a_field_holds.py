"""What a field holds is compared before every solve, and left as it was by every trace."""

import collections
import gc
import sys
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.compile.walk import dissect


class Config:
    k = 1.0
    many = [1.0]  # noqa: RUF012 (a class-level list is what is tried)


@dataclass(slots=True)
class Slotted:
    k: float = 1.0


def module(k: float) -> types.ModuleType:
    made = types.ModuleType("settings_of_the_test")
    made.k = k  # type: ignore[attr-defined]
    return made


cfg = module(1.0)
slotted = Slotted()
array = np.ones(2)
kept = collections.deque([1.0])


def by_module(t: Tensor, y: Tensor) -> Tensor:
    return -y * cfg.k


def by_class(t: Tensor, y: Tensor) -> Tensor:
    return -y * Config.k


def by_list_of_class(t: Tensor, y: Tensor) -> Tensor:
    return -y * Config.many[0]


def by_slot(t: Tensor, y: Tensor) -> Tensor:
    return -y * slotted.k


def by_array(t: Tensor, y: Tensor) -> Tensor:
    return -y * float(array[0])


def by_deque(t: Tensor, y: Tensor) -> Tensor:
    return -y * kept[0]


def by_function(t: Tensor, y: Tensor) -> Tensor:
    return -y * by_function.k  # type: ignore[attr-defined]


by_function.k = 1.0  # type: ignore[attr-defined]


def by_late_import(t: Tensor, y: Tensor) -> Tensor:
    import settings_of_the_test as late  # type: ignore[import-not-found]

    return -y * late.k


class Inherited(nn.Module):
    scales = [1.0]  # noqa: RUF012

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -y * self.scales[0]


CHANGES: dict[str, tuple[Callable[..., Any], Callable[[float], None]]] = {
    "module": (by_module, lambda k: setattr(cfg, "k", k)),
    "class": (by_class, lambda k: setattr(Config, "k", k)),
    "list of a class": (by_list_of_class, lambda k: Config.many.__setitem__(0, k)),
    "slot": (by_slot, lambda k: setattr(slotted, "k", k)),
    "array": (by_array, lambda k: array.__setitem__(0, k)),
    "deque": (by_deque, lambda k: kept.__setitem__(0, k)),
    "function": (by_function, lambda k: setattr(by_function, "k", k)),
    "late import": (by_late_import, lambda k: setattr(cfg, "k", k)),
    "list of its class": (Inherited(), lambda k: Inherited.scales.__setitem__(0, k)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_number_that_changed_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "settings_of_the_test", cfg)
    field, change = CHANGES[name]
    found = dissect(field)
    assert not found.opaque
    found.settle(frozenset())
    assert found.held() is not None
    before = found.key(frozenset())
    change(2.0)
    try:
        assert found.held() is None
        assert dissect(field).key(frozenset()) != before
    finally:
        change(1.0)
    assert found.held() is not None
    assert dissect(field).key(frozenset()) == before


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", ["module", "array"])
def test_and_the_solve_computes_with_it(name: str) -> None:
    field, change = CHANGES[name]
    options: dict[str, Any] = {"solver": "euler", "dt0": 0.1, "controller": ic.Constant()}
    try:
        for k in (1.0, 2.0):
            change(k)
            found = ic.solve(field, torch.ones(2, 2), 0.0, 1.0, compile=True, **options)
            torch.testing.assert_close(found.ys[-1], torch.full((2, 2), (1 - 0.1 * k) ** 10))
    finally:
        change(1.0)


def test_new_code_and_defaults_in_an_old_function_are_seen() -> None:
    def field(t: Tensor, y: Tensor, k: float = 1.0) -> Tensor:
        return -y * k

    def other(t: Tensor, y: Tensor, k: float = 1.0) -> Tensor:
        return y * k

    for name, value in (("__code__", other.__code__), ("__defaults__", (2.0,))):
        found = dissect(field)
        found.settle(frozenset())
        assert found.held() is not None
        setattr(field, name, value)
        assert found.held() is None
    reference = weakref.ref(field)
    del field
    assert reference() is None
    assert found.held() is None


power = 3.0


class Powers:
    power = 2


def test_a_cell_and_a_global_of_one_name_are_two() -> None:
    """The global, which only an attribute has the name of, hid the value in the cell."""
    powers = Powers()

    def make(power: float) -> Callable[[Tensor, Tensor], Tensor]:
        def field(t: Tensor, y: Tensor) -> Tensor:
            return -y * power * powers.power

        return field

    keys = {repr(dissect(make(k)).key(frozenset())[1]) for k in (1.0, 2.0, 1.0)}
    assert len(keys) == 2


def test_functions_of_torch_that_share_a_code_are_two() -> None:
    """`F.max_pool1d` and `F.max_pool2d` differ in what they close over alone."""
    one, other = nn.functional.max_pool1d, nn.functional.max_pool2d
    assert one.__code__ is other.__code__
    keys = [dissect(function).key(frozenset()) for function in (one, other, one)]
    assert keys[0] == keys[2] != keys[1]


class Opaque:
    def __init__(self, inside: Any) -> None:
        self.inside = inside

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return -y * next(iter(self.inside))


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    "inside",
    [bytearray(b"\1\2"), {(1.0,)}, memoryview(b"\1\2"), np.array([1.0], dtype=object)],
    ids=["bytearray", "set", "memoryview", "objects"],
)
def test_what_cannot_be_looked_into_is_named(inside: Any) -> None:
    if isinstance(inside, set):
        inside = {frozenset(inside)}

        def field(t: Tensor, y: Tensor) -> Tensor:
            return -y * len(inside)
    else:
        field = Opaque(inside)
    with pytest.warns(ic.CompileWarning, match=r"what field\.inside holds.*cannot be found out"):
        ic.solve(field, torch.ones(2, 2), 0.0, 1.0, compile=True)


def test_of_ordinary_modules_all_can_be_looked_into() -> None:
    parts = [nn.Linear(2, 2), nn.Tanh(), nn.BatchNorm1d(2), nn.Dropout(0.1), nn.GRUCell(2, 2)]
    parts += [
        nn.MultiheadAttention(2, 1),
        nn.Conv2d(2, 2, 3),
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
    ]
    model = nn.Sequential(*parts)
    model.register_forward_hook(lambda *_: None)
    assert not dissect(model).opaque
    assert not dissect(ic.nn.MLPField(2, hidden=8)).opaque
    assert not dissect(torch.no_grad()(by_module)).opaque


LEFT: Any = None


@pytest.mark.usefixtures("interpreted")
def test_no_trace_leaves_anything_behind() -> None:
    seen: list[Tensor] = []
    last = collections.deque([torch.zeros(2)], maxlen=1)
    inner = None

    def field(t: Tensor, y: Tensor) -> Tensor:
        global LEFT  # noqa: PLW0603
        nonlocal inner
        LEFT = inner = y
        cfg.left = Config.left = y  # type: ignore[attr-defined]
        seen.append(y)
        last.append(y)
        return -y

    zero = last[0]
    options: dict[str, Any] = {"solver": "euler", "dt0": 0.5, "controller": ic.Constant()}
    cfg.left = Config.left = None  # type: ignore[attr-defined]
    with torch.no_grad():
        ic.solve(field, torch.ones(2, 2), 0.0, 1.0, compile=True, **options)
    assert LEFT is inner is None
    assert cfg.left is Config.left is None  # type: ignore[attr-defined]
    assert seen == []
    assert last[0] is zero


@pytest.mark.usefixtures("interpreted")
def test_what_is_known_of_a_field_keeps_no_weights_alive() -> None:
    class Replaced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(2))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -y * self.w

    field = Replaced()
    options: dict[str, Any] = {"solver": "euler", "dt0": 0.5, "controller": ic.Constant()}
    with torch.no_grad():
        ic.solve(field, torch.ones(2, 2), 0.0, 1.0, compile=True, **options)
    old = weakref.ref(field.w)
    field.w = nn.Parameter(torch.ones(2))
    gc.collect()
    assert old() is None


def test_no_more_than_so_many_fields_are_known(fresh: None) -> None:
    from isocline.compile import kinds

    fields = [Opaque(1.0) for _ in range(kinds._MAX_FIELDS + 10)]
    for field in fields:
        kinds.find(field, lambda: None)
    assert len(kinds._FIELDS) == kinds._MAX_FIELDS
