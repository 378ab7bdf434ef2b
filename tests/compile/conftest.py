"""Compiled steps are kept in one temporary folder for the whole session."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isocline.compile import index, kinds, program, recall
from isocline.compile.building import Artifact
from isocline.compile.native import whole
from isocline.compile.native.library import driver
from isocline.compile.passes import apply

from .compile_cases import Interpreted


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; workers of one session share it.

    Whoever works on the compiler may keep one from run to run: ISOCLINE_TEST_ARTIFACTS names it.
    """
    if kept := os.environ.get("ISOCLINE_TEST_ARTIFACTS"):
        return Path(kept)
    base = tmp_path_factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "isocline-artifacts"


@pytest.fixture(autouse=True)
def _own_cache(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOCLINE_CACHE_DIR", str(artifacts))


def forget(patch: pytest.MonkeyPatch) -> None:
    """Nothing was compiled before in this process."""
    patch.setattr(kinds, "_FIELDS", {})
    patch.setattr(kinds, "_KINDS", {})
    patch.setattr(recall, "_KNOWN", {})


def interpret(patch: pytest.MonkeyPatch, driven: bool) -> list[str]:
    """Run graphs as they are, without a compiler; lists what would have been compiled.

    Args:
        patch: undoes it.
        driven: whether the driver takes the steps, as it does those of machine code.
    """
    made: list[str] = []

    def built(traced: Any, passes: Any, cache: Any, what: str) -> Artifact:
        made.append(what)
        graph, before = apply(traced.graph, passes, traced.held)
        runner = Interpreted(graph)
        return Artifact(runner.run, before, runner.entry if driven else None)

    forget(patch)
    patch.setattr(program, "built", built)
    patch.setattr(index.Index, "shelf", lambda self, *_: index.Shelf(None, self._cache))
    return made


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was compiled before in this process."""
    forget(monkeypatch)


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Graphs are run as they are, step by step; lists what would have been compiled."""
    return interpret(monkeypatch, driven=False)


@pytest.fixture(scope="module")
def graphs() -> Iterator[None]:
    """Graphs are run as they are, by the driver; a module's tests share what is traced."""
    with pytest.MonkeyPatch.context() as patch:
        interpret(patch, driven=True)
        yield


@pytest.fixture(scope="module")
def stepwise() -> Iterator[None]:
    """As `graphs`, but step by step. Tests that count what is traced ask for `interpreted`."""
    with pytest.MonkeyPatch.context() as patch:
        interpret(patch, driven=False)
        yield


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Run something with the loop in Python over the same compiled steps."""

    def with_loop(run: Callable[[], Any]) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(whole.Driven, "of", classmethod(lambda cls, compiled: None))
            patch.setattr(recall, "_KNOWN", {})
            return run()

    return with_loop


@pytest.fixture
def driven(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each solve of the test, whether the driver took it."""
    assert driver() is not None
    took: list[bool] = []
    before = whole.solved

    def solved(*given: Any) -> Any:
        found = before(*given)
        took.append(found is not None)
        return found

    monkeypatch.setattr("isocline.compile.solver.solved", solved)
    return took
