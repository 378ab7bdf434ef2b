"""Labelled images in memory, and cheap batches of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import DataError
from .seeds import fold_seeds

__all__ = ["Batches", "ImageSet", "ImageSplits", "Slices", "random_crop"]


@dataclass(frozen=True)
class ImageSet:
    """Images and their labels.

    Attributes:
        images: float32, ``(n, channels, height, width)``.
        labels: int64, ``(n,)``.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise DataError(f"{len(self.images)} images came with {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> ImageSet:
        """The first `count` samples, or all for ``None`` or a larger count."""
        return self if count is None else ImageSet(self.images[:count], self.labels[:count])

    def take(self, index: Tensor) -> ImageSet:
        """The samples at `index`."""
        return ImageSet(self.images[index], self.labels[index])


@dataclass(frozen=True)
class ImageSplits:
    """The three parts of a data set; `padding` is how far training images may be shifted."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: int
    padding: int


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `padding` pixels both ways, filling with its own corner's value.

    The same as padding and cropping to the old size at random, for a whole batch at once: one
    gather in place of a Python loop. The fill is the smallest value in the batch, which is the
    background of normalised images (zero would be grey).

    Args:
        images: ``(n, channels, height, width)``.
        padding: Pixels added on each side before the crop.
        generator: Source of the offsets.
    """
    count, channels, height, width = images.shape
    fill = float(images.min())
    padded = torch.nn.functional.pad(images, (padding,) * 4, value=fill)
    tops, lefts = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator)
    rows = (tops + torch.arange(height)).view(count, 1, height, 1)
    columns = (lefts + torch.arange(width)).view(count, 1, 1, width)
    sample = torch.arange(count).view(count, 1, 1, 1)
    channel = torch.arange(channels).view(1, channels, 1, 1)
    return padded[sample, channel, rows, columns]


class Batches:
    """Shuffled, augmented training batches, a function of seed and epoch alone.

    Made anew for each epoch, it can start in the middle of one (`load_state_dict`, the protocol
    that Lightning knows), so that training resumes as if it had never stopped. With several
    processes, each takes its own part of every global batch.

    Args:
        data: Samples to draw from.
        batch_size: Samples in a batch of this process.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
        padding: Random shift in pixels, 0 for none.
        rank: Number of this process.
        world_size: Number of processes.
        limit: At most so many batches.

    Raises:
        DataError: If the data do not fill one batch.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        *,
        seed: int,
        epoch: int = 0,
        padding: int = 0,
        rank: int = 0,
        world_size: int = 1,
        limit: int | None = None,
    ) -> None:
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch
        self.padding = padding
        self.rank = rank
        self.world_size = world_size
        self.position = 0
        full = len(data) // (batch_size * world_size)
        if full == 0:
            raise DataError(
                f"{len(data)} training samples do not fill one batch of {batch_size} in each of "
                f"{world_size} process(es); use a smaller --batch-size or more samples"
            )
        self.length = full if limit is None else min(full, limit)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        shuffle = torch.Generator().manual_seed(fold_seeds(self.seed, self.epoch))
        order = torch.randperm(len(self.data), generator=shuffle)
        start, self.position = self.position, 0
        for number in range(start, self.length):
            first = (number * self.world_size + self.rank) * self.batch_size
            batch = self.data.take(order[first : first + self.batch_size])
            images = batch.images
            if self.padding:
                # One seed for each batch, so that a batch does not depend on those before it.
                seed = fold_seeds(self.seed, self.epoch, number, self.rank)
                images = random_crop(images, self.padding, torch.Generator().manual_seed(seed))
            self.position = number + 1
            yield images, batch.labels
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        """How many batches of this epoch have been handed out."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration start after so many batches; past the end, from the start."""
        self.position = state["position"] % self.length


class Slices:
    """All samples in order, `batch_size` at a time, the last batch as short as it must be."""

    def __init__(self, data: ImageSet, batch_size: int) -> None:
        self.data = data
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(
            self.data.images.split(self.batch_size),
            self.data.labels.split(self.batch_size),
            strict=True,
        )
