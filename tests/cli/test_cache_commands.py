"""The commands that look at compiled steps and remove them."""

from pathlib import Path

import pytest

from isocline.cli.main import main
from isocline.compile import Cache


def test_cache_info_and_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ISOCLINE_CACHE_DIR", str(tmp_path / "cache"))

    def build(workspace: Path) -> Path:
        path = workspace / "made.so"
        path.write_bytes(bytes(3 * 2**20))
        return path

    kept = Cache().get("a", build)
    assert main(["cache", "info"]) == 0
    said = capsys.readouterr().out
    assert str(tmp_path / "cache") in said
    assert "3.0 MiB" in said
    assert kept.exists()
    assert main(["cache", "clear"]) == 0
    assert "removed 1 artifacts" in capsys.readouterr().out
    assert not kept.exists()
    assert main(["cache", "info"]) == 0
    assert "0.0 MiB" in capsys.readouterr().out
