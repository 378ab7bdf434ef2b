"""Feeds a source's batches to Lightning, in epochs of so many iterations."""

from __future__ import annotations

import lightning as L
from torch import Tensor

from ..stream import Stream
from .config import CnfConfig
from .sources import Source

__all__ = ["CnfData"]


class CnfData(L.LightningDataModule):
    """Epochs of ``eval_every`` iterations, the last one shortened, and the held-out points.

    Args:
        config: Resolved settings.
        source: Where the points come from.
    """

    def __init__(self, config: CnfConfig, source: Source) -> None:
        super().__init__()
        assert config.iterations is not None
        assert config.eval_every is not None
        self.iterations = config.iterations
        self.every = config.eval_every
        self.source = source

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return -(-self.iterations // self.every)

    def train_dataloader(self) -> Stream[Tensor]:
        """Batches of the trainer's present epoch."""
        trainer = self.trainer
        assert trainer is not None
        rank, world_size = trainer.global_rank, trainer.world_size
        first = trainer.current_epoch * self.every

        def draw(iteration: int) -> Tensor:
            return self.source.draw(iteration, rank, world_size)

        # A run that was finished and is resumed asks for an epoch beyond the last.
        length = max(1, min(self.every, self.iterations - first))
        return Stream(draw, first, length)

    def val_dataloader(self) -> Stream[Tensor]:
        """The held-out points, in one batch: they are scored in parts all the same."""
        return Stream(lambda _: self.source.validation, 0, 1)
