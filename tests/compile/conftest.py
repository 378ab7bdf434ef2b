"""Compiled steps are kept in one temporary folder for the whole session."""

import os
from pathlib import Path

import pytest

from isocline.compile import fitting, program, recall
from isocline.compile.building import Artifact
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


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was compiled before in this process."""
    monkeypatch.setattr(fitting, "_FIELDS", {})
    monkeypatch.setattr(fitting, "_KINDS", {})


@pytest.fixture
def interpreted(fresh: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Graphs are run as they are, without a compiler; lists what would have been compiled."""
    made: list[str] = []

    def built(traced, passes, cache, what):
        made.append(what)
        graph, before = apply(traced.graph, passes, traced.held)
        return Artifact(Interpreted(graph).run, before)

    monkeypatch.setattr(program, "built", built)
    return made


@pytest.fixture
def interpreted_whole(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, and the driver runs them."""

    def built(traced, passes, cache, what):
        graph, before = apply(traced.graph, passes, traced.held)
        made = Interpreted(graph)
        return Artifact(made.run, before, made.entry)

    monkeypatch.setattr(program, "built", built)
    monkeypatch.setattr(recall, "_KNOWN", {})
