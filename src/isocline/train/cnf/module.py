"""The flow as Lightning trains it."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...data import POTENTIALS
from ...nn import CNF
from ..errors import TrainingError
from ..schedule import scheduled
from ..seeding import seed_global
from .config import CnfConfig
from .flow import build_flow
from .measure import mean_of, score
from .objectives import make_objective
from .space import Space

__all__ = ["CnfModule", "weights_prefix"]

# The streams of random numbers in training and in validation.
TRAINING, VALIDATION = 100, 101


def weights_prefix(config: CnfConfig) -> str:
    """What the names of the flow's weights begin with in a checkpoint: the average's, if any."""
    return "average.module." if config.ema else "flow."


class CnfModule(L.LightningModule):
    """Loss, optimiser with schedule, moving average, and scores of held-out points.

    Args:
        settings: `CnfConfig.to_dict` of resolved settings; saved in each checkpoint.
        space: `Space.to_dict` of the data's space; saved too, so that a trained flow can be used
            where the data are not.
    """

    def __init__(self, settings: dict[str, Any], space: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters({"settings": settings, "space": space})
        self.config = CnfConfig.from_dict(settings)
        potential = POTENTIALS.get(self.config.target or "")
        self.objective = make_objective(self.config, potential)
        self.flow = build_flow(self.config, Space.from_dict(space).features)
        self._solved = False
        self.average: AveragedModel | None = None
        if self.config.ema:
            average = get_ema_multi_avg_fn(self.config.ema)
            self.average = AveragedModel(self.flow, multi_avg_fn=average)
            self.average.requires_grad_(requires_grad=False)

    @property
    def measured(self) -> CNF:
        """The flow that is measured and used: the averaged one, if there is an average."""
        flow = self.flow if self.average is None else self.average.module
        assert isinstance(flow, CNF)
        return flow

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Loss of one batch.

        Raises:
            TrainingError: If the loss is not finite.
        """
        # Noise follows from the iteration, so that a run can go on from any of them.
        seed_global(self.device, self.config.seed, TRAINING, self.global_step, self.global_rank)
        loss = self.objective.loss(self.flow, batch)
        if not torch.isfinite(loss.value):
            raise TrainingError(
                f"the loss became {loss.value.item()} in iteration {self.global_step + 1}; lower "
                f"--lr (now {self.config.lr}), or --tol (now {self.config.tol:g})"
            )
        self._log("train_loss", loss.value.detach())
        for name, value in loss.metrics.items():
            self._log(name, value)
        self._solved = loss.solved
        if loss.solved:
            self._log("nfe_forward", self.flow.nfe_forward)
        return loss.value

    def on_after_backward(self) -> None:
        """Log the evaluations of the backward pass, which are known only now."""
        if self._solved:
            self._log("nfe_backward", self.flow.nfe_backward)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip by the setting, which a run remembers, rather than by the trainer's."""
        self.clip_gradients(optimizer, self.config.clip, gradient_clip_algorithm="norm")

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Step, and take the new weights into the average.

        Here rather than at the batch's end, before which callbacks have saved the checkpoint.
        """
        super().optimizer_step(*arguments, **named)
        if self.average is not None:
            self.average.update_parameters(self.flow)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Score of the held-out points, all in one batch."""
        del batch_idx
        scores, evaluations = score(
            self.objective, self.measured, batch, self.config.seed, VALIDATION
        )
        self._log_validation(self.objective.metric, mean_of(scores).value)
        self._log_validation("nfe", sum(evaluations) / len(evaluations))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, and its learning rate over the run."""
        config = self.config
        assert config.lr is not None
        optimizer = torch.optim.AdamW(
            self.flow.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        assert config.iterations is not None
        return scheduled(optimizer, config.iterations, config.schedule)

    def _log(self, name: str, value: Tensor | float) -> None:
        # Of each iteration: the means of the epoch are taken by `History`, which can be resumed.
        self.log(name, value, on_step=True, on_epoch=False, prog_bar=True)

    def _log_validation(self, name: str, value: float) -> None:
        # It is the same in each process, and needs no averaging over them.
        self.log(f"validation_{name}", value, prog_bar=True, batch_size=1)
