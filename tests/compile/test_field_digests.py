"""The digest by which a warm start finds what was compiled tells apart what a trace does."""

from __future__ import annotations

import collections
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.compile.cache import Cache
from isocline.compile.index import Index
from isocline.compile.passes import Passes
from isocline.compile.subjects import Subject
from isocline.compile.traces import Traces
from isocline.compile.walk import dissect
from isocline.state import Packing

from .fingerprint_cases import CHANGES, FIELD, HELPER, REQUEST, digest

# --- a field in a module of its own, with one thing changed -----------------------------------


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes the field anew, from modules that are imported anew; changed in one place."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names = ("helper_at_hand", "field_at_hand")

    def make(change: tuple[str, str] | None = None) -> Any:
        old, new = change or ("", "")
        assert change is None or (HELPER + FIELD).count(old) == 1, "change one thing"
        for name, text in zip(names, (HELPER, FIELD), strict=True):
            (tmp_path / f"{name}.py").write_text(text.replace(old, new) if change else text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("field_at_hand").make()

    yield make
    for name in names:
        sys.modules.pop(name, None)


def test_the_same_field_made_anew_has_the_same_digest(made: Callable[..., Any]) -> None:
    first = digest(*made())
    assert first is not None
    assert digest(*made()) == first


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_a_trace_sees_is_in_the_digest(what: str, made: Callable[..., Any]) -> None:
    before = digest(*made())
    field, y0 = made(CHANGES[what])
    changed = digest(field, y0)
    field(torch.tensor(0.5, dtype=y0.dtype), y0)  # it is a field still
    assert before is not None
    assert changed is not None, "it would be traced at every start"
    assert changed != before
    assert digest(*made()) == before


def test_another_process_finds_the_same_digest(made: Callable[..., Any], tmp_path: Path) -> None:
    """Whatever seed strings are hashed with, wherever things lie, and if torch.compile has run.

    It puts a counter of its own in the place of `Module.__init__`.
    """
    expected = digest(*made())
    compiling = "import torch; torch.compile(torch.nn.Tanh(), backend='eager')(torch.ones(2))\n"
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from tests.compile.fingerprint_cases import digest\n"
        "import field_at_hand; print(digest(*field_at_hand.make()))\n"
    )
    root = str(Path(__file__).parents[2])
    for seed, begins in (("1", ""), ("2", compiling)):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", begins + script, str(tmp_path), root]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        assert done.stdout.strip() == expected


# --- what is asked, and the state --------------------------------------------------------------


def plainly(t: Tensor, y: Tensor) -> Tensor:
    return -y * torch.cos(t)


def structured(t: Tensor, y: Any) -> Any:
    return {key: -value for key, value in y.items()}


REQUESTS = {
    "another method": REQUEST._replace(tableau=ic.Dopri5().tableau),
    "the mean of the batch": REQUEST._replace(average=True),
    "no error ratio": REQUEST._replace(adaptive=False),
    "tolerances as vectors": REQUEST._replace(vectors=True),
    "slopes": REQUEST._replace(stages=True),
    "another rewriting": REQUEST._replace(passes=Passes(tanh=False)),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_what_is_asked_is_in_the_digest(what: str) -> None:
    y0 = torch.ones(3, 2)
    found = digest(plainly, y0, request=REQUESTS[what])
    assert found not in (None, digest(plainly, y0))


def test_states_in_the_digest() -> None:
    """Every batch of two samples or more has one; all else has its own."""
    shared = digest(plainly, torch.ones(2, 3))
    assert shared is not None
    assert digest(plainly, torch.ones(7, 3)) == shared
    one, two = torch.ones(3, 2), torch.ones(3)
    others = [
        torch.ones(1, 3),
        torch.ones(3),
        torch.ones(2, 4),
        torch.ones(2, 3, 1),
        torch.ones(2, 3, dtype=torch.float64),
        {"a": one, "b": one},
        {"b": one, "a": one},
        {"a": one},
        {"a": one, "b": two},
        [one, one],
        (one, one),
        [one, [one]],
    ]
    found = [digest(plainly, y0) for y0 in others]
    assert len({shared, *found}) == 1 + len(others)
    assert None not in found
    Pair = collections.namedtuple("Pair", "a b")
    assert digest(plainly, Pair(one, one)) is None


def test_arguments_in_the_digest() -> None:
    """Tensors by their layout, numbers by their values; the batch of an argument is free."""
    y0, w = torch.ones(3, 2), torch.ones(2)

    def field(t: Tensor, y: Tensor, *args: Any) -> Tensor:
        return y * args[0]

    arguments = [(), (w,), (w.double(),), (2.0,), (3.0,), (2,), (w, w), (w, w.clone()), ([w],)]
    arguments += [(torch.ones(3, 2),), (torch.ones(3, 1),), (torch.ones(4, 2),)]
    arguments += [(torch.ones(2, 2).t(),), (torch.ones(4)[::2],), (w.clone().requires_grad_(),)]
    found = [digest(field, y0, given) for given in arguments]
    assert None not in found
    found[12:12] = [digest(field, y0, (torch.ones(2, 2),))]
    assert len(set(found)) == len(found)
    assert digest(field, torch.ones(5, 2), (torch.ones(5, 2),)) == found[9]
    tagged = w.clone()
    tagged.scale = 2.0  # type: ignore[attr-defined]
    assert digest(field, y0, (tagged,)) is None


def test_settings_of_torch_are_in_the_digest() -> None:
    y0 = torch.ones(3, 2)
    expected, threads = digest(plainly, y0), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert digest(plainly, y0) not in (None, expected)
    finally:
        torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float64)
    try:
        assert digest(plainly, y0) not in (None, expected)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("cpu"):  # a mode, which sees every call
        assert digest(plainly, y0) is None
    assert digest(plainly, y0) == expected


# --- parts that are one ------------------------------------------------------------------------


def test_whether_two_parts_are_one() -> None:
    """A trace has one input for a tensor that is found twice, one code for one that is not."""
    y0, a, b = torch.ones(3, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    tied = nn.Linear(2, 2)
    tied.weight = a.weight
    first_tied = nn.Linear(2, 2)
    first_tied.bias = a.bias
    nets = [nn.Sequential(a, other) for other in (a, b, tied, first_tied)]
    found = [digest(net, y0) for net in nets]
    assert None not in found
    assert len(set(found)) == len(found)


# --- a field that changes ----------------------------------------------------------------------


def test_a_field_that_changed_after_it_was_looked_at_has_no_digest() -> None:
    """What was traced of it later must not be kept under what it was before."""
    field = nn.Tanh()
    field.rate = 1.0  # type: ignore[assignment]
    anatomy, y0 = dissect(field), torch.ones(3, 2)
    subject = Subject(field, (), Packing.of(y0), [], set(), anatomy, None)
    traces, index = Traces(REQUEST), Index(Cache(), "Program", REQUEST)
    traces._lay_out(subject, True)
    assert index.shelf(subject, traces._layout, []).digest is not None
    field.rate = 2.0  # type: ignore[assignment]
    assert index.shelf(subject, traces._layout, []).digest is None
