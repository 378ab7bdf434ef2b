"""The image classifier as Lightning trains it."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from ...nn import ImageClassifier
from ..adjoint import make_adjoint
from ..errors import TrainingError
from ..schedule import scheduled
from .config import OdenetConfig

__all__ = ["OdenetModule", "build_model"]

# The batch for which the paper's learning rate is given.
REFERENCE_BATCH = 128


def build_model(config: OdenetConfig) -> ImageClassifier:
    """Build the network that the (resolved) settings describe."""
    block: dict[str, Any] = {}
    if config.model != "resnet":
        assert config.solver is not None
        assert config.adjoint is not None
        block = {
            "solver": config.solver,
            "rtol": config.tol,
            "atol": config.tol,
            "adjoint": make_adjoint(config.adjoint, config.slots),
            "stepping": config.stepping,
        }
        if config.model == "rknet":
            block["dt0"] = 1.0 / config.rk_steps
    return ImageClassifier(config.model, config.data, channels=config.channels, **block)


class OdenetModule(L.LightningModule):
    """Cross entropy, optimiser with schedule, and counts of evaluations.

    Args:
        settings: `OdenetConfig.to_dict` of resolved settings; saved in each checkpoint.
        total_steps: Iterations of the whole run, over which the learning rate is planned.
    """

    def __init__(self, settings: dict[str, Any], total_steps: int) -> None:
        super().__init__()
        self.save_hyperparameters({"settings": settings, "total_steps": total_steps})
        self.config = OdenetConfig.from_dict(settings)
        self.total_steps = total_steps
        self.model = build_model(self.config)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits."""
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch.

        Raises:
            TrainingError: If the loss is not finite.
        """
        loss = self._measure(batch, "train")
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} in iteration {self.global_step + 1} "
                f"(epoch {self.current_epoch + 1}, batch {batch_idx + 1}); lower --lr "
                f"(now {self.config.lr}), or use --precision 32"
            )
        if (ode := self.model.ode) is not None:
            self._log("nfe_forward", ode.nfe_forward)
        return loss

    def on_after_backward(self) -> None:
        """Log the evaluations of the backward pass, which are known only now."""
        if (ode := self.model.ode) is not None:
            self._log("nfe_backward", ode.nfe_backward)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and error of one batch."""
        del batch_idx
        self._measure(batch, "validation")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimiser, and its learning rate over the run."""
        config = self.config
        assert config.schedule is not None
        optimizer = self._make_optimizer()
        return scheduled(optimizer, self.total_steps, config.schedule)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        assert config.lr is not None
        assert config.batch_size is not None
        if config.optimizer == "adam":
            return torch.optim.AdamW(
                self.parameters(),
                lr=config.lr,
                betas=(config.momentum, 0.999),
                weight_decay=config.weight_decay,
            )
        # The rate of SGD grows with the global batch (Goyal et al. 2017).
        batch = config.batch_size * self.trainer.world_size
        return torch.optim.SGD(
            self.parameters(),
            lr=config.lr * batch / REFERENCE_BATCH,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )

    def _measure(self, batch: tuple[Tensor, Tensor], part: str) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        error = 100.0 * (logits.argmax(1) != labels).float().mean()
        for name, value in (("loss", loss.detach()), ("error", error)):
            if part == "train":
                self._log(f"train_{name}", value)
            else:
                # It is the same in each process, and needs no averaging over them.
                self.log(f"validation_{name}", value, prog_bar=True, batch_size=len(labels))
        return loss

    def _log(self, name: str, value: Tensor | float) -> None:
        # Of each iteration: the means of the epoch are taken by `History`, which can be resumed.
        self.log(name, value, on_step=True, on_epoch=False, prog_bar=True)
