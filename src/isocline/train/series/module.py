"""What the Lightning modules of series share: optimiser, schedule, clipping, logs."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from ..errors import TrainingError
from ..schedule import scheduled
from .config import FitSettings
from .solves import evaluations

__all__ = ["EVALUATION_BATCH", "TRAINING", "VALIDATION", "SeriesModule"]

# Series in a pass without a graph.
EVALUATION_BATCH = 256
# The streams of random numbers in training and in validation.
TRAINING, VALIDATION = 100, 101


class SeriesModule(L.LightningModule):
    """Optimiser with schedule, clipping by the setting that a run remembers, and logs.

    A subclass sets `model` and `fit`.
    """

    model: torch.nn.Module
    fit: FitSettings

    def on_after_backward(self) -> None:
        """Log the evaluations of the backward pass, which are known only now."""
        forward, backward = evaluations(self.model)
        if forward:
            self._log("nfe_forward", forward)
            self._log("nfe_backward", backward)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip by the setting, which a run remembers, rather than by the trainer's."""
        self.clip_gradients(optimizer, self.fit.clip, gradient_clip_algorithm="norm")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, and its learning rate over the run."""
        assert self.fit.lr is not None
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.fit.lr, weight_decay=self.fit.weight_decay
        )
        assert self.fit.iterations is not None
        return scheduled(optimizer, self.fit.iterations, self.fit.schedule)

    def _check(self, loss: Tensor) -> Tensor:
        """The loss, which must be finite."""
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} in iteration {self.global_step + 1}; lower --lr "
                f"(now {self.fit.lr}), or look for wild values in the data (see --outliers)"
            )
        return loss

    def _log(self, name: str, value: Tensor | float) -> None:
        # Of each iteration: the means of the epoch are taken by `History`, which can be resumed.
        self.log(name, float(value), on_step=True, on_epoch=False, prog_bar=True)

    def _log_validation(self, name: str, value: float) -> None:
        # It is the same in each process, and needs no averaging over them.
        self.log(f"validation_{name}", value, prog_bar=True, batch_size=1)
