"""One row of numbers for each epoch, kept in the checkpoint and in ``metrics.csv``."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import lightning as L

from .files import atomic_path

__all__ = ["COLUMNS", "History", "read_metrics"]

COLUMNS = (
    "epoch",
    "step",
    "learning_rate",
    "train_loss",
    "train_error",
    "validation_loss",
    "validation_error",
    "nfe_forward",
    "nfe_backward",
    "seconds",
)


class History(L.Callback):
    """Collects the epoch's metrics and rewrites the CSV file after each epoch.

    The rows travel in the checkpoint: a resumed run drops those after its checkpoint, and the file
    is that of a run that never stopped (but for the seconds of an epoch that was cut in two).

    Args:
        path: The CSV file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._start = time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, for an epoch that is resumed does not start again."""
        del trainer, pl_module
        self._start = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch's row."""
        del pl_module
        row = {
            "epoch": float(trainer.current_epoch + 1),
            "step": float(trainer.global_step),
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "seconds": time.perf_counter() - self._start,
        }
        for name in COLUMNS:
            if name in trainer.callback_metrics:
                row[name] = float(trainer.callback_metrics[name])
        self.rows.append(row)
        if trainer.is_global_zero:
            write_metrics(self.path, self.rows)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of the checkpoint."""
        self.rows = [dict(row) for row in state_dict["rows"]]


def write_metrics(path: Path, rows: list[dict[str, float]]) -> None:
    """Write the rows as CSV; numbers that are missing stay empty."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{value:.6g}" for name, value in row.items()})


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read what `History` wrote; no rows if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]
