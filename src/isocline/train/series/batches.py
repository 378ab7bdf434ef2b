"""Batches of series: what a model reads, and what it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import lightning as L
import torch
from torch import Tensor

from ...irregular import IrregularBatch
from ..seeding import generator
from ..stream import Passes, Stream
from .config import FitSettings
from .parts import Part, Source

__all__ = ["Ask", "SeriesBatch", "SeriesData", "ask", "everything", "hide", "window"]

# Streams of random numbers that must not be each other's.
ORDER, ASKED, VALIDATION = range(10, 13)


class SeriesBatch(NamedTuple):
    """Series as a model meets them.

    Attributes:
        observed: What it reads.
        target: What its likelihood is of; ``None`` for the same.
        held: bool, ``(batch, rows, features)``: what of the target was hidden, or ``None``.
        labels: int64, ``(batch,)``, or ``None``.
    """

    observed: IrregularBatch
    target: IrregularBatch | None = None
    held: Tensor | None = None
    labels: Tensor | None = None

    @property
    def asked(self) -> IrregularBatch:
        """The target, whichever it is."""
        return self.observed if self.target is None else self.target

    def parts(self, size: int) -> list[SeriesBatch]:
        """The batch in parts of at most `size` series."""
        return [
            SeriesBatch(
                self.observed[series],
                None if self.target is None else self.target[series],
                None if self.held is None else self.held[series][:, : self._rows(series)],
                None if self.labels is None else self.labels[series],
            )
            for series in (
                slice(first, first + size) for first in range(0, len(self.observed), size)
            )
        ]

    def _rows(self, series: slice) -> int:
        return int(self.asked.lengths[series].max())


Ask = Callable[[IrregularBatch, torch.Generator], SeriesBatch]
"""Makes of whole series what a model is asked; its random numbers come from the generator."""


def everything(batch: IrregularBatch, draws: torch.Generator) -> SeriesBatch:
    """All is read, and all is asked for."""
    del draws
    return SeriesBatch(batch)


def hide(fraction: float) -> Ask:
    """A random part of the observed values is not read, but asked for with the others."""

    def chosen(batch: IrregularBatch, draws: torch.Generator) -> SeriesBatch:
        held = (torch.rand(batch.mask.shape, generator=draws) < fraction) & batch.mask
        observed = batch.hidden(~held)
        # A row of which all is hidden must not give away that something was measured there.
        return SeriesBatch(observed.select(observed.mask.any(-1)), batch, held)

    return chosen


def window(share: float, end: float) -> Ask:
    """A window of each series is read and brought to time 0; all of the series is asked for.

    Args:
        share: Length of the window, as a share of the times from 0 to `end`.
        end: Latest time of the series.
    """

    def chosen(batch: IrregularBatch, draws: torch.Generator) -> SeriesBatch:
        start = torch.rand(len(batch), generator=draws) * (1.0 - share) * end
        observed = batch.between(start, start + share * end)
        return SeriesBatch(observed.shifted(-start), batch.shifted(-start))

    return chosen


def ask(part: Part, how: Ask, *seeds: int) -> SeriesBatch:
    """What a model is asked of all series of a part, with random numbers of their own seeds."""
    return how(part.batch, generator(*seeds))._replace(labels=part.labels)


class SeriesData(L.LightningDataModule):
    """Epochs of ``eval_every`` iterations, the last one shortened, and the held-out series.

    Args:
        config: Resolved settings.
        seed: What orders and random choices follow from.
        source: Where the series come from.
        training: What a model is asked of a training batch.
        validation: What it is asked of the held-out series, each time the same.
    """

    def __init__(
        self, config: FitSettings, seed: int, source: Source, training: Ask, validation: Ask
    ) -> None:
        super().__init__()
        assert config.iterations is not None
        assert config.batch_size is not None
        assert config.eval_every is not None
        self.iterations = config.iterations
        self.every = config.eval_every
        self.seed = seed
        self.part = source.train
        self.training = training
        self.passes = Passes(len(source.train.series), config.batch_size, seed, ORDER)
        self.held_out = ask(source.validation, validation, seed, VALIDATION)

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return -(-self.iterations // self.every)

    def batch(self, iteration: int, rank: int = 0, world_size: int = 1) -> SeriesBatch:
        """The training batch of an iteration."""
        indices = self.passes.indices(iteration, rank, world_size)
        draws = generator(self.seed, ASKED, iteration, rank)
        labels = self.part.labels
        asked = self.training(self.part.batch[indices], draws)
        return asked._replace(labels=None if labels is None else labels[indices])

    def train_dataloader(self) -> Stream[SeriesBatch]:
        """Batches of the trainer's present epoch."""
        trainer = self.trainer
        assert trainer is not None
        rank, world_size = trainer.global_rank, trainer.world_size
        first = trainer.current_epoch * self.every
        # A run that was finished and is resumed asks for an epoch beyond the last.
        length = max(1, min(self.every, self.iterations - first))
        return Stream(lambda iteration: self.batch(iteration, rank, world_size), first, length)

    def val_dataloader(self) -> Stream[SeriesBatch]:
        """The held-out series, in one batch: they are scored in parts all the same."""
        return Stream(lambda _: self.held_out, 0, 1)
