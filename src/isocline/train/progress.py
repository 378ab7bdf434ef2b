"""The progress bar of a training run, narrow enough for 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import TimeRemainingColumn

__all__ = ["TrainingBar"]

BAR_WIDTH = 10


class TrainingBar(RichProgressBar):
    """Lightning's bar with a few metrics, each of them once and under a short name.

    Args:
        labels: For each metric shown, the name that it is logged under and the short one. Those
            that share a short name are shown together, ``NFE: 26+32``.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        super().__init__()
        self.labels = labels

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """Epoch, a short bar, iterations, and the time that remains of the epoch."""
        description, bar, iterations, *_ = super().configure_columns(trainer)
        bar.bar_width = BAR_WIDTH
        return [description, bar, iterations, TimeRemainingColumn()]

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The metrics by their short names, to three digits."""
        logged = super().get_metrics(trainer, pl_module)
        shown: dict[str, int | str | float | dict[str, float]] = {}
        for name, label in self.labels.items():
            if name in logged:
                text = f"{logged[name]:.3g}"
                shown[label] = f"{shown[label]}+{text}" if label in shown else text
        return shown
