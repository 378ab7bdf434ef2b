"""Tiny runs of flows."""

from pathlib import Path

import numpy as np
import torch

from isocline.train import CnfConfig


def tiny_flow(out: Path, **settings: object) -> CnfConfig:
    """Settings of a run of about a second: two epochs of four iterations."""
    values: dict[str, object] = {
        "out": out,
        "iterations": 8,
        "eval_every": 4,
        "batch_size": 32,
        "units": 4,
        "hidden": 8,
        "t1": 1.0,
        "tol": 1e-2,
        "validation_size": 50,
        "test_size": 60,
        "lr": 1e-2,
        "pictures": False,
        "threads": 1,
        "progress": False,
        **settings,
    }
    return CnfConfig(**values)  # type: ignore[arg-type]


def write_points(path: Path, n: int = 80) -> Path:
    """A table of two columns, far from standardised."""
    points = np.random.default_rng(0).normal(size=(n, 2)) @ np.array([[3.0, 1.0], [0.0, 0.5]])
    points += np.array([100.0, -7.0])
    np.savetxt(path, points, delimiter=",", header="a,b", comments="")
    return path


def checkpoint(path: Path, name: str = "last") -> dict[str, object]:
    content = torch.load(path / "checkpoints" / f"{name}.ckpt", weights_only=True)
    assert isinstance(content, dict)
    return content
