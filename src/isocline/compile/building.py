"""A graph as a shared library, by Inductor, ahead of time."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from .cache import Cache
from .driving import RoundDriver
from .native.artifact import Loaded
from .native.binding import Entry
from .native.library import compiler
from .native.rounds import NativeRounds
from .passes import Passes, Rewritten, apply, shims
from .recipes import Unstorable, restored, stored
from .small import emitted, suits
from .tracing import Traced, first_line

__all__ = ["Artifact", "BuildError", "built", "circumstances", "lowered", "rebuilt"]

_OPTIONS: dict[str, Any] = {
    # A step over a 2-64-64-2 network at batch 128: 222 us with torch's tanh, 142 with this.
    "cpp.use_decompose_tanh": True,
    # Products and sums become one instruction each, which halves what they take.
    "cpp.enable_floating_point_contract_flag": "fast",
    # What a debugger reads is three quarters of an artifact.
    "aot_inductor.enable_line_tables": False,
    "aot_inductor.enable_frame_pointer": False,
}

_SMALL_FLAGS = ("-O3", "-std=c++20", "-fPIC", "-shared", "-ffp-contract=fast")
"""For small graphs, as AOTInductor compiles others."""

_SHIMS = "aot_inductor.custom_ops_to_c_shims"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled graph.

    Attributes:
        run: from a list of its inputs to a list of its outputs.
        before: from the tensors that the field holds, what it takes in their place.
        entry: how the driver calls it; None where it is not machine code.
        graphs: takes it many times, where it is for a device that records graphs.
        record: plain data, from which another process has it again by `rebuilt`; None where that
            is not possible.
    """

    run: Callable[[list[Any]], list[Tensor]]
    before: GraphModule | None = None
    entry: Entry | None = None
    record: dict[str, Any] | None = None
    graphs: RoundDriver | None = None

    @property
    def driver(self) -> RoundDriver | None:
        """What takes it many times, if it is a round or the pull-back of one."""
        if self.graphs is not None or self.entry is None:
            return self.graphs
        return NativeRounds(self.entry)

    def prepared(self, common: list[Tensor], held: int) -> list[Tensor]:
        """The inputs that are the same for all steps of a solve, the last `held` as it takes them.

        What is hoisted out of the steps is computed here.
        """
        if self.before is None or not held:
            return common
        with torch.no_grad():
            return [*common[:-held], *self.before.forward(*common[-held:])]


class BuildError(Exception):
    """A graph could not be compiled; the message says why."""


def built(traced: Traced, passes: Passes, cache: Cache, what: str) -> Artifact:
    """A graph compiled, from the cache or compiled now.

    Args:
        traced: the graph.
        passes: which rewritings of it to apply.
        cache: where artifacts are.
        what: for the note while it is compiled.

    Raises:
        BuildError: if there is no C++ compiler, or it fails.
        CacheError: if the cache cannot be trusted.
    """
    rewritten, source = lowered(traced, passes)

    def build(workspace: Path) -> Path:
        _demand_compiler()
        with _note(what):
            if source is not None:
                return _compiled_small(source, workspace)
            return _compiled(rewritten.graph, workspace, cache.headers())

    key = _key(traced, passes)
    path = cache.get(key, build)
    record: dict[str, Any] | None = None
    with contextlib.suppress(Unstorable):
        before = None if rewritten.before is None else stored(rewritten.before)
        record = {"artifact": key, "before": before}
    try:
        loaded = Loaded(path)
    except (RuntimeError, OSError) as error:
        raise BuildError(f"what was compiled cannot be loaded: {first_line(error)}") from error
    return Artifact(loaded.run, rewritten.before, loaded.entry, record)


def rebuilt(record: Any, cache: Cache) -> Artifact | None:
    """The artifact of which that is the record; None where it is gone, or the record is damaged.

    Raises:
        CacheError: if the cache cannot be trusted.
    """
    try:
        key, before = record["artifact"], record["before"]
        if not (isinstance(key, str) and key.isalnum()):
            return None
        graph = None if before is None else restored(before)
    except (KeyError, TypeError, Unstorable):
        return None
    path = cache.find(key)
    if path is None:
        return None
    try:
        loaded = Loaded(path)
    except (RuntimeError, OSError):
        return None
    return Artifact(loaded.run, graph, loaded.entry, record)


def lowered(traced: Traced, passes: Passes) -> tuple[Rewritten, str | None]:
    """A graph as it is to be compiled, with its source in C++ if it is small."""
    if passes.small and suits(traced.graph):
        own = replace(passes, products=False, skinny=False, tanh=False)
        rewritten = apply(traced.graph, own, traced.held)
        source = emitted(rewritten.graph)
        if source is not None:
            return rewritten, source
    return apply(traced.graph, passes, traced.held), None


def _compiled_small(source: str, workspace: Path) -> Path:
    """Compile a function of our own."""
    text, found = workspace / "small.cpp", workspace / "small.so"
    text.write_text(source)
    tuned = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
    command = [*compiler(), *_SMALL_FLAGS, tuned, str(text), "-o", str(found)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise BuildError(f"compiling it failed: {made.stderr.strip().splitlines()[:1]}")
    return found


def _compiled(graph: GraphModule, workspace: Path, headers: Path) -> Path:
    """Compile in folders of our own: Inductor's are shared ones, under /tmp."""
    from torch._inductor import aot_compile

    inputs = tuple(node.meta["val"] for node in graph.graph.find_nodes(op="placeholder"))
    private = _environment("TORCHINDUCTOR_CACHE_DIR", str(workspace))
    with warnings.catch_warnings(), private, _precompiled(headers) as options:
        warnings.simplefilter("ignore")
        try:
            found = aot_compile(graph, inputs, options=_OPTIONS | options | {_SHIMS: shims(graph)})
        except Exception as error:
            name = type(error).__name__
            raise BuildError(f"compiling it failed with {name}: {first_line(error)}") from error
    _demand_whole(workspace)
    return Path(str(found))


def _demand_whole(workspace: Path) -> None:
    """Raise where the library would call operators by a file that lies beside it, by their names.

    Inductor has no C function for these, such as torch.linalg.solve; the library alone cannot run.
    """
    for path in workspace.rglob("*.json"):
        text = path.read_text()
        found = json.loads(text) if text else None
        nodes = found.get("nodes") if isinstance(found, dict) else None
        names = sorted({node["node"]["target"] for node in nodes or ()})
        if names:
            raise BuildError(f"{', '.join(names)} cannot be compiled ahead of time")


@contextlib.contextmanager
def _precompiled(headers: Path) -> Iterator[dict[str, Any]]:
    """Options under which precompiled headers lie in `headers`, where torch lets us choose.

    They take 7 s to make and save 6 of the 15 s of each artifact. By default they would be read
    from under /tmp, where another user may have put them before.
    """
    from torch._inductor import codecache

    places = {"_HEADER_DIR": str(headers), "_HEADER_LOCK_DIR": str(headers / "locks")}
    if not all(hasattr(codecache, name) for name in places):
        yield {"aot_inductor.precompile_headers": False}
        return
    before = {name: getattr(codecache, name) for name in places}
    for name, place in places.items():
        setattr(codecache, name, place)
    try:
        yield {"aot_inductor.precompile_headers": True}
    finally:
        for name, place in before.items():
            setattr(codecache, name, place)


def _key(traced: Traced, passes: Passes) -> str:
    """Names what an artifact is good for: graph, versions, options, processor."""
    parts = [traced.text, *circumstances(passes)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def circumstances(passes: Passes) -> list[str]:
    """What an artifact depends on besides its graph."""
    return [
        _sources(),
        repr(passes),
        repr(sorted(_OPTIONS.items())),
        torch.__version__,
        sys.platform,
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        str(torch.get_num_threads()),
        _processor(),
    ]


@functools.cache
def _sources() -> str:
    """A digest of what makes an artifact of a graph: two versions of it share none."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    folders = (here / "passes", here / "small")
    sources = [path for folder in folders for path in folder.iterdir()]
    sources = [path for path in sources if path.suffix in (".py", ".h")]
    sources.append(here / "native" / "tensors.h")
    for path in sorted([Path(__file__), *sources]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _processor() -> str:
    """The processor's features as the system names them: code is made for this one."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open() as lines:
        for line in lines:
            if line.startswith(("flags", "Features")):
                return line
    return platform.processor()


def _demand_compiler() -> None:
    import shutil

    name = compiler()[0]
    if shutil.which(name) is None:
        raise BuildError(f"there is no C++ compiler {name!r}: install one, or set CXX to yours")


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _note(what: str) -> Iterator[None]:
    """One line on stderr while the compiler runs."""
    sys.stderr.write(f"isocline: compiling {what} (some seconds, once) ...\n")
    sys.stderr.flush()
    yield
