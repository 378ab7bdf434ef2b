"""Feeds a source's batches to Lightning, in epochs of so many iterations."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import lightning as L
from torch import Tensor

from .config import CnfConfig
from .sources import Source

__all__ = ["CnfData", "Stream"]


class Stream:
    """Training batches of one epoch, each a function of the number of its iteration.

    It can start in the middle (`load_state_dict`, the protocol that Lightning knows).

    Args:
        draw: Makes the batch of an iteration.
        first: Number of the first iteration.
        length: How many there are.
    """

    def __init__(self, draw: Callable[[int], Tensor], first: int, length: int) -> None:
        self.draw = draw
        self.first = first
        self.length = length
        self.position = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Tensor]:
        start, self.position = self.position, 0
        for number in range(start, self.length):
            self.position = number + 1
            yield self.draw(self.first + number)
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        """How many batches of this epoch have been handed out."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration start after so many batches; past the end, from the start."""
        self.position = state["position"] % self.length


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

    def train_dataloader(self) -> Stream:
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

    def val_dataloader(self) -> Stream:
        """The held-out points, in one batch: they are scored in parts all the same."""
        return Stream(lambda _: self.source.validation, 0, 1)
