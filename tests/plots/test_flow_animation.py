"""The animation of a flow: frames, time, size, and nothing half-written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import isocline as ic
from isocline import plots

BOUNDS = (-3.0, 3.0, -2.0, 4.0)


def bump(width: float = 0.3) -> torch.Tensor:
    """A Gaussian right of the middle, and low."""
    grid = plots.grid_points(BOUNDS, (60, 90))
    squares = (grid - torch.tensor([1.5, -1.0])).square().sum(-1) / width**2
    return torch.exp(-squares / 2) / (2 * math.pi * width**2)


def moving(count: int, n: int = 200) -> list[plots.FlowFrame]:
    return [
        plots.FlowFrame(float(t), bump(1.5 - 1.2 * float(t)), torch.randn(n, 2) * (1.5 - float(t)))
        for t in torch.linspace(0, 1, count)
    ]


def test_an_animation_has_every_frame_and_rests_on_the_last(tmp_path: Path) -> None:
    path = tmp_path / "new" / "flow.gif"
    plots.animate_flow(moving(7), path, BOUNDS, fps=25, pause=1.5, title="CNF")
    with Image.open(path) as image:
        assert image.n_frames == 7
        assert image.info["loop"] == 0
        durations = []
        for index in range(7):
            image.seek(index)
            durations.append(image.info["duration"])
        last = np.asarray(image.convert("RGB")).astype(float)
    assert durations == [40] * 6 + [1540]
    assert [file.name for file in path.parent.iterdir()] == ["flow.gif"]
    # The bump of the last frame is right of the middle and low, in the left of the two panels.
    rows, columns = np.nonzero((last[..., 0] > 180) & (last[..., 2] < 80) & (last[..., 1] > 150))
    height, width = last.shape[:2]
    assert columns.mean() / (width / 2) == pytest.approx(0.75, abs=0.05)
    assert rows.mean() > 0.75 * height


def test_sixty_frames_are_less_than_a_megabyte(tmp_path: Path) -> None:
    path = tmp_path / "flow.gif"
    sharp = [
        (t, bump(width=1.5 - 1.3 * t), torch.randn(10_000, 2) * (1.5 - t))
        for t in np.linspace(0, 1, 60)
    ]
    plots.animate_flow(sharp, path, BOUNDS)
    assert path.stat().st_size < 1_000_000
    with Image.open(path) as image:
        assert image.n_frames == 60


def test_a_failed_animation_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "flow.gif"
    path.write_bytes(b"old")

    save = Image.Image.save

    def fail(picture: Image.Image, file: object, **options: Any) -> None:
        if not isinstance(file, Path):  # a frame, on its way through memory
            return save(picture, file, **options)
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.animate_flow(moving(2), path, BOUNDS)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("flow.gif", b"old")]


@pytest.mark.parametrize("count", [1, 3])
def test_an_animation_in_which_nothing_moves(tmp_path: Path, count: int) -> None:
    path = tmp_path / "still.gif"
    plots.animate_flow([("K = 1", bump(), torch.zeros(1, 2))] * count, path, BOUNDS, pause=1)
    with Image.open(path) as image:
        image.load()
        assert image.info["duration"] == 1000 + 50 * count


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"path": Path("flow.png")}, "`path`"),
        ({"fps": 100}, "`fps`"),
        ({"pause": -1.0}, "`pause`"),
        ({"limit": 0}, "`limit`"),
        ({"dpi": 0}, "`dpi`"),
        ({"frames": []}, "no frames"),
        ({"frames": [(0.5, torch.ones(3), torch.ones(3, 2))]}, r"frames\[0\]\.density"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    given = {"frames": moving(1), "path": tmp_path / "new" / "flow.gif", "bounds": BOUNDS}
    with pytest.raises(ic.InputError, match=message):
        plots.animate_flow(**{**given, **wrong})
    assert not any(tmp_path.iterdir())
