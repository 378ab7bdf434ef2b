"""A process whose artifacts are all in the cache traces nothing and loads no compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import symbolic_trace
from torch.fx.experimental.proxy_tensor import make_fx

from isocline.compile.cache import Cache, CacheError
from isocline.compile.index import Halves, Outline, Shelf
from isocline.compile.passes.hoist import hoist
from isocline.compile.recipes import Unstorable, restored, stored
from isocline.compile.sizes import sized, sizes_from

SCRIPT = """
import hashlib, json, sys, warnings
import torch
from torch import nn
import isocline as ic

warnings.simplefilter("error")
torch.manual_seed(0)
torch.set_num_threads(1)

class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
        self.nfe = 0

    def forward(self, t, y):
        "NONCE"
        self.nfe += 1
        return self.net(y) * torch.cos(t)

# For one sample a step is a small graph, which compiles in a moment.
field, y0 = Field(), torch.randn(3 if sys.argv[1] == "kept" else 1, 2)

def answers(compile):
    field.zero_grad()
    y = y0.clone().requires_grad_(sys.argv[1] != "forward")
    with torch.set_grad_enabled(y.requires_grad):
        sol = ic.solve(field, y, 0.0, 1.0, solver="bosh3", rtol=1e-3, atol=1e-3, compile=compile)
        found = [sol.ys]
        if y.requires_grad:
            sol.ys.square().sum().backward()
            found += [y.grad, *(p.grad for p in field.parameters())]
    return [x.detach().clone() for x in found]

if sys.argv[1] == "kept":
    from isocline.compile import program
    program.WORTH_KEEPING = 0
found = answers(True)
from isocline.compile.tracing import traces_so_far
bits = hashlib.sha256(b"".join(x.numpy().tobytes() for x in found)).hexdigest()
loaded = sorted({"torch._dynamo", "torch._inductor", "sympy"} & set(sys.modules))
near = all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(found, answers(False)))
print(json.dumps([bits, traces_so_far(), loaded, near]))
"""


def start(folder: Path, mode: str, nonce: str) -> tuple[str, int, list[str]]:
    """Solve in a process of its own: bits of the answer, number of traces, compilers loaded."""
    environment = os.environ | {"ISOCLINE_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", SCRIPT.replace("NONCE", nonce), mode]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    bits, traces, loaded, near = json.loads(done.stdout)
    assert near
    return bits, traces, loaded


@pytest.mark.parametrize("mode", ["forward", "training", "kept"])
def test_a_warm_start_gives_the_same_bits_and_traces_nothing(artifacts: Path, mode: str) -> None:
    """What is read of a note changes nothing; neither does a note that is damaged."""
    nonce = uuid.uuid4().hex  # nobody has met this field, though its graphs may be compiled
    notes = artifacts / "index"
    before = set(notes.glob("*.json"))
    expected, traces, _ = start(artifacts, mode, nonce)
    assert traces > 0
    assert start(artifacts, mode, nonce) == (expected, 0, [])
    mine = sorted(set(notes.glob("*.json")) - before)
    assert mine
    for place, note in enumerate(mine):
        content = note.read_bytes()
        note.write_bytes([content[: len(content) // 2], b"", content + b" "][place % 3])
    again, traces, _ = start(artifacts, mode, nonce)
    assert (again, traces > 0) == (expected, True)
    assert start(artifacts, mode, nonce) == (expected, 0, [])


# --- notes ------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


FOUND = {"used": [0, 2], "sizes": [[8], [0, 16]]}


def test_notes(cache: Cache) -> None:
    assert cache.noted("a") is None
    cache.note("a", FOUND)
    assert cache.noted("a") == FOUND
    cache.note("a", {})
    assert cache.noted("a") == {}
    (path,) = (cache.folder / "index").iterdir()
    for place in (cache.folder, path.parent, path):
        assert not place.stat().st_mode & 0o077


def test_damaged_notes_are_none(cache: Cache) -> None:
    """Cut anywhere, changed anywhere, or moved to where another is looked for."""
    cache.note("a", FOUND)
    path = cache.folder / "index" / "a.json"
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        assert cache.noted("a") is None
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert cache.noted("a") is None
    path.with_name("b.json").write_bytes(content)
    assert cache.noted("b") is None
    path.unlink()
    path.mkdir()
    assert cache.noted("a") is None
    cache.note("a", FOUND)  # it cannot be written: that is let go


@pytest.mark.parametrize("place", ["index", "index/a.json", "."])
def test_notes_that_others_can_write_to_are_refused(cache: Cache, place: str) -> None:
    cache.note("a", FOUND)
    (cache.folder / place).chmod(0o777)
    with pytest.raises(CacheError, match="can be written to by others"):
        cache.noted("a")


def test_a_note_that_is_a_link_is_refused(cache: Cache, tmp_path: Path) -> None:
    cache.note("a", FOUND)
    path = cache.folder / "index" / "a.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(CacheError, match="symbolic link"):
        cache.noted("a")


def test_notes_have_a_bound(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were not used for longest go; one that is too long is not kept."""
    monkeypatch.setattr("isocline.compile.cache._MAX_NOTES", 3)
    for number, name in enumerate("abc"):
        cache.note(name, name)
        os.utime(cache.folder / "index" / f"{name}.json", (number, number))
    assert cache.noted("a") == "a"  # so that b is the one
    cache.note("d", "d")
    assert [cache.noted(name) for name in "abcd"] == ["a", None, "c", "d"]
    cache.note("e", "e" * 2**20)
    assert cache.noted("e") is None


def test_notes_are_counted_and_cleared(cache: Cache) -> None:
    cache.note("a", FOUND)
    found = cache.contents()
    assert found.entries == 1
    assert found.size > 64
    assert found.summary()["index entries"] == "1"
    assert cache.clear() == found
    assert cache.contents().entries == 0
    assert cache.noted("a") is None


def test_notes_by_many_processes_at_once(tmp_path: Path) -> None:
    """Whoever reads finds one of those that were written, whole."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from isocline.compile.cache import Cache\n"
        "cache = Cache(Path(sys.argv[1]))\n"
        "for number in range(200):\n"
        "    cache.note('a', [sys.argv[2]] * (number % 7 + 1) * 500)\n"
        "    found = cache.noted('a')\n"
        "    assert found and len(set(found)) == 1 and len(found) % 500 == 0, found\n"
    )
    commands = [[sys.executable, "-c", script, str(tmp_path / "cache"), name] for name in "abc"]
    running = [subprocess.Popen(each, stderr=subprocess.PIPE, text=True) for each in commands]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert not list((tmp_path / "cache" / "index").glob(".*"))


# --- what is read of them ---------------------------------------------------------------------


def test_shelves(cache: Cache) -> None:
    shelf, other, none = (Shelf(digest, cache) for digest in ("one", "two", None))
    outline, halves = Outline((0, 2), ((8,), (0, 16))), Halves(None)
    for each in (shelf, none):
        each.keep("outline", outline.plain)
        each.keep("kept", halves.plain)
    assert shelf.outline(3) == outline
    assert outline.largest(4) == 64
    assert shelf.halves("kept") == halves
    for each in (other, none):
        assert each.outline(3) is None
        assert each.halves("kept") is None
        assert each.artifact("step") is None


@pytest.mark.parametrize(
    "found",
    [
        *([], 1, None, "used", {}, {"used": [0]}, {"used": [0], "sizes": 3}),
        *({"used": [3], "sizes": []}, {"used": [1, 0], "sizes": []}, {"used": [0, 0], "sizes": []}),
        *({"used": [-1], "sizes": []}, {"used": 0, "sizes": []}, {"used": [0], "sizes": [["a"]]}),
        *({"used": [[0]], "sizes": []}, {"used": [0], "sizes": [8]}, {"used": [0.5], "sizes": []}),
    ],
)
def test_notes_that_say_something_else_are_not_believed(cache: Cache, found: Any) -> None:
    shelf = Shelf("one", cache)
    for key in ("outline", "kept", "step"):
        shelf.keep(key, found)
    assert shelf.outline(3) is None
    assert shelf.artifact("step") is None


@pytest.mark.parametrize("record", [{"artifact": "../a"}, {"artifact": "gone", "before": None}])
def test_artifacts_that_are_not_there(cache: Cache, record: Any) -> None:
    shelf = Shelf("one", cache)
    shelf.keep("step", {"before": None} | record)
    assert shelf.artifact("step") is None


def test_sizes() -> None:
    assert [sized(size, 10) for size in sizes_from([[3], [0, 2], [1, 0, 1]])] == [3, 20, 101]
    assert sized((0, 2), None) == 0
    with pytest.raises(ValueError, match="sizes"):
        sizes_from([[1.5]])


# --- what is hoisted, as plain data -------------------------------------------------------------


def weights(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    """What is hoisted of it: all that follows from `w` and `v` alone."""
    first, second = torch.split(w * 2.0, 2, dim=1)
    scale = torch.linalg.vector_norm(v, dim=0, keepdim=True).clamp(min=float("-inf"))
    eye = torch.eye(2, dtype=torch.float64, device="cpu")
    turned = (first + second).t().contiguous().to(torch.float64) @ eye
    return x.double() @ turned / scale + v.new_zeros(2).double()


def test_what_is_hoisted_is_the_same_when_it_was_stored() -> None:
    x, w, v = torch.randn(3, 2), torch.randn(2, 4), torch.randn(5, 2)
    graph = make_fx(weights, tracing_mode="fake")(x, w, v)
    before = hoist(graph, [1, 2])
    assert before is not None
    text = json.dumps(stored(before), allow_nan=False)
    assert len(json.loads(text)["calls"]) > 5
    for one, other in zip(before(w, v), restored(json.loads(text))(w, v), strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()


def test_graphs_that_hold_or_call_something_else_are_not_stored() -> None:
    constant = torch.ones(2)
    with pytest.raises(Unstorable):
        stored(make_fx(lambda x: (x + constant,))(torch.ones(2)))
    with pytest.raises(Unstorable):
        stored(symbolic_trace(lambda x: (torch.add(x, 1),)))
    with pytest.raises(Unstorable):
        stored(make_fx(lambda x: (x.clone().add_(1),))(torch.ones(2)))


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"calls": [["aten.add_.Tensor", [{"of": 0}, 1], {}]]},
            {"calls": [["aten.no.no", [], {}]]},
        ),
        *({"calls": [["os.system", ["true"], {}]]}, {"calls": [["aten.__class__", [], {}]]}),
        *({"calls": [["aten.t.default", [{"of": 5}], {}]]}, {"calls": [["aten.t.default"]]}),
        *({"calls": [["aten.t.default", [{"of": -1}], {}]]}, {"results": [{"of": 7}]}),
        *(
            {"inputs": "x"},
            {"results": None},
            {"calls": [["aten.t.default", [{"dtype": "load"}], {}]]},
        ),
        *({"calls": [["aten.t.default", [{"kind": 1}], {}]]}, {"calls": [[1, [], {}]]}),
    ],
)
def test_plain_data_that_are_no_graph_are_refused(change: dict[str, Any]) -> None:
    good = {"inputs": 1, "calls": [["aten.t.default", [{"of": 0}], {}]], "results": [{"of": 1}]}
    assert restored(good)(torch.ones(2, 3))[0].shape == (3, 2)
    with pytest.raises(Unstorable):
        restored(good | change)
