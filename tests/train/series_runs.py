"""Tiny runs on time series, and files for them."""

import math
from pathlib import Path

import torch

from isocline.train import LatentOdeConfig, NeuralCdeConfig

TINY: dict[str, object] = {
    "iterations": 4,
    "eval_every": 2,
    "batch_size": 8,
    "number": 24,
    "validation_size": 8,
    "test_size": 10,
    "tol": 1e-2,
    "lr": 1e-2,
    "pictures": False,
    "threads": 1,
    "progress": False,
}


def tiny_latent(out: Path, **settings: object) -> LatentOdeConfig:
    """Settings of a run of about a second: two epochs of two iterations."""
    small = {"latent": 3, "hidden": 6, "encoder_hidden": 5}
    return LatentOdeConfig(**{"out": out, **TINY, **small, **settings})  # type: ignore[arg-type]


def tiny_cde(out: Path, **settings: object) -> NeuralCdeConfig:
    """The same of a classifier."""
    small = {"hidden": 4, "width": 6}
    return NeuralCdeConfig(**{"out": out, **TINY, **small, **settings})  # type: ignore[arg-type]


def write_long(
    folder: Path, number: int = 30, *, labels: bool = True, start: float = 0.0, rows: int = 8
) -> Path:
    """A folder of series in long form: waves far from standardised, whose speed is the class."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = torch.Generator().manual_seed(0)
    lines, outcomes = ["subject,time,variable,value"], ["subject,label"]
    for subject in range(number):
        label = subject % 2
        times = (10 * torch.rand(rows, generator=draws)).sort().values.tolist()
        for place, time in enumerate(times):
            angle = (0.3 + 0.5 * label) * time
            lines.append(f"p{subject},{start + time:.6f},pressure,{100 + 20 * math.sin(angle):.6f}")
            if place % 2:
                lines.append(f"p{subject},{start + time:.6f},heat,{37 + math.cos(angle):.6f}")
        outcomes.append(f"p{subject},{label}")
    (folder / "series.csv").write_text("\n".join(lines) + "\n")
    if labels:
        (folder / "outcomes.csv").write_text("\n".join(outcomes) + "\n")
    return folder
