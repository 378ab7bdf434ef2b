"""Feeds the classifier's data to Lightning."""

from __future__ import annotations

import lightning as L

from ...data import Batches, ImageSplits, Slices, load_digits, load_mnist
from .config import OdenetConfig

__all__ = ["OdenetData", "load_splits"]

# Validation needs no graph, so that larger batches fit.
VALIDATION_BATCH = 256


def load_splits(config: OdenetConfig) -> ImageSplits:
    """Load the data set that `config` names.

    Raises:
        DataError: If it cannot be read or fetched.
    """
    if config.data == "digits":
        return load_digits(config.seed)
    return load_mnist(config.data_dir, config.seed)


class OdenetData(L.LightningDataModule):
    """Training batches for the trainer's epoch and process, and the whole validation set.

    Every process validates on all samples: that costs little, and the result is exact.

    Args:
        config: Resolved settings.
        splits: The data set.
    """

    def __init__(self, config: OdenetConfig, splits: ImageSplits) -> None:
        super().__init__()
        self.config = config
        self.splits = splits

    def batches(self, epoch: int = 0, rank: int = 0, world_size: int = 1) -> Batches:
        """Training batches of one epoch, the last epoch shortened to ``limit_steps``."""
        config = self.config
        assert config.batch_size is not None
        batches = Batches(
            self.splits.train.first(config.limit_train),
            config.batch_size,
            seed=config.seed,
            epoch=epoch,
            padding=self.splits.padding if config.augment else 0,
            rank=rank,
            world_size=world_size,
        )
        if config.limit_steps is not None:
            left = config.limit_steps - epoch * batches.length
            batches.length = max(1, min(batches.length, left))
        return batches

    def plan(self, world_size: int = 1) -> tuple[int, int]:
        """Epochs and iterations of the whole run."""
        config = self.config
        assert config.epochs is not None
        full = len(
            Batches(
                self.splits.train.first(config.limit_train),
                config.batch_size or 1,
                seed=config.seed,
                world_size=world_size,
            )
        )
        total = full * config.epochs
        if config.limit_steps is not None:
            total = min(total, config.limit_steps)
        return -(-total // full), total

    def train_dataloader(self) -> Batches:
        """Batches of the trainer's present epoch."""
        trainer = self.trainer
        assert trainer is not None
        return self.batches(trainer.current_epoch, trainer.global_rank, trainer.world_size)

    def val_dataloader(self) -> Slices:
        """The validation set."""
        return Slices(self.splits.validation, VALIDATION_BATCH)
