"""What every test of the command line needs."""

import pytest


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which no line wraps."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("ISOCLINE_TRACEBACK", raising=False)
