"""One row of numbers for each epoch, kept in the checkpoint and in ``metrics.csv``."""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from ..atomic import atomic_path

__all__ = ["Columns", "History", "read_metrics", "seconds_per_iteration", "write_metrics"]

Rows = list[dict[str, float]]


class Columns:
    """Names of the columns of ``metrics.csv``.

    Args:
        averaged: Metrics that the module logs in every iteration; the row has their mean.
        validated: Metrics that the module logs once an epoch, in validation.

    Beside these there are the epoch, the iterations so far, the learning rate, the seconds of the
    epoch, and those of its iterations alone, without the validation.
    """

    def __init__(self, averaged: Sequence[str], validated: Sequence[str]) -> None:
        self.averaged = tuple(averaged)
        self.validated = tuple(validated)
        self.all = (
            *("epoch", "step", "learning_rate"),
            *self.averaged,
            *self.validated,
            *("seconds", "training_seconds"),
        )


class History(L.Callback):
    """Collects the epoch's metrics and rewrites the CSV file after each epoch.

    The rows travel in the checkpoint, and so do the sums of an epoch that is not over (Lightning's
    own means forget what came before a resumption): the file of a resumed run is that of a run
    which never stopped, but for the seconds.

    Args:
        path: The CSV file.
        columns: What to collect.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self.columns = columns
        self.rows: Rows = []
        self._sums: dict[str, torch.Tensor] = {}
        self._iterations = 0
        self._before = 0.0
        self._trained = 0.0
        self._start = time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, for an epoch that is resumed does not start again."""
        del trainer, pl_module
        self._start = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._start = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add the iteration's metrics to the sums, on their device."""
        del pl_module, outputs, batch, batch_idx
        metrics = trainer.callback_metrics
        for name in self.columns.averaged:
            if name in metrics:
                # Not in place: the metric's own tensor is Lightning's.
                self._sums[name] = metrics[name] + self._sums.get(name, 0.0)
        self._iterations += 1
        self._trained = self._seconds()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch's row, with means over all processes."""
        del pl_module
        row = {
            "epoch": float(trainer.current_epoch + 1),
            "step": float(trainer.global_step),
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "seconds": self._seconds(),
            "training_seconds": self._trained,
        }
        for name, total in self._sums.items():
            mean = trainer.strategy.reduce(total / self._iterations, reduce_op="mean")
            row[name] = float(mean)
            if trainer.logger is not None:
                trainer.logger.log_metrics({f"{name}_epoch": row[name]}, trainer.global_step)
        for name in self.columns.validated:
            if name in trainer.callback_metrics:
                row[name] = float(trainer.callback_metrics[name])
        self.rows.append(row)
        self._sums, self._iterations, self._before = {}, 0, 0.0
        if trainer.is_global_zero:
            write_metrics(self.path, self.rows, self.columns)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, and the epoch's sums."""
        return {
            "rows": [dict(row) for row in self.rows],
            "sums": {name: total.cpu() for name, total in self._sums.items()},
            "iterations": self._iterations,
            "seconds": self._seconds() if self._iterations else 0.0,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows and the sums of the checkpoint."""
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._sums = dict(state_dict.get("sums", {}))
        self._iterations = int(state_dict.get("iterations", 0))
        self._before = float(state_dict.get("seconds", 0.0))

    def _seconds(self) -> float:
        return self._before + time.perf_counter() - self._start


def write_metrics(path: Path, rows: Rows, columns: Columns) -> None:
    """Write the rows as CSV; numbers that are missing stay empty."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns.all)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{value:.6g}" for name, value in row.items()})


def read_metrics(path: Path) -> Rows:
    """Read what `History` wrote; no rows if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]


def seconds_per_iteration(rows: Rows) -> float:
    """Median over the epochs of the time of an iteration, without the measurements between."""
    ends = [row["step"] for row in rows]
    starts = [0.0, *ends[:-1]]
    return statistics.median(
        row["training_seconds"] / (end - start)
        for row, start, end in zip(rows, starts, ends, strict=True)
    )
