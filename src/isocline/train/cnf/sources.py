"""Where training batches and held-out points come from.

A batch follows from the seed of the run, the iteration and the process alone: a run that goes on
from the middle draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...data import (
    POTENTIALS,
    TOY2D,
    Potential,
    builtin_table,
    read_table,
    split_table,
)
from ..seeding import generator
from ..stream import Passes
from .config import FILES, CnfConfig
from .space import Space, space_of

__all__ = ["Source", "make_source"]

# Streams of random numbers that must not be each other's.
TRAIN, VALIDATION, TEST, NOISE, ORDER = range(5)


@dataclass(frozen=True)
class Source:
    """What a flow learns from.

    Attributes:
        space: Columns, and units.
        draw: ``(iteration, rank, world_size) -> (batch, features)``: a training batch in the
            flow's units. Where there are no data, the batch has no columns.
        validation: Held-out points in the flow's units, ``(n, features)``.
        test: The same, for the result.
        rows: Rows to train on; ``None`` where each iteration draws fresh points.
        log_density: The true log density of points in the flow's units, where it is known.
        potential: The density to match, where there are no data.
    """

    space: Space
    draw: Callable[[int, int, int], Tensor]
    validation: Tensor
    test: Tensor
    rows: int | None = None
    log_density: Callable[[Tensor], Tensor] | None = None
    potential: Potential | None = None


def make_source(config: CnfConfig) -> Source:
    """Make the source that resolved settings name.

    Raises:
        DataError: If a file cannot be read, or its contents cannot be learnt from.
    """
    if config.objective == "density":
        return _potential(config)
    assert config.data is not None
    if config.data in TOY2D:
        return _toy(config)
    return _table(config)


def _toy(config: CnfConfig) -> Source:
    toy = TOY2D[str(config.data)]

    def draw(iteration: int, rank: int, world_size: int) -> Tensor:
        del world_size
        return toy.sample(config.batch_size, generator(config.seed, TRAIN, iteration, rank))

    return Source(
        space=Space(("x1", "x2"), toy.bounds),
        draw=draw,
        validation=toy.sample(config.validation_size, generator(config.seed, VALIDATION)),
        test=toy.sample(config.test_size, generator(config.seed, TEST)),
        log_density=toy.log_density,
    )


def _potential(config: CnfConfig) -> Source:
    potential = POTENTIALS[str(config.target)]

    def draw(iteration: int, rank: int, world_size: int) -> Tensor:
        del iteration, rank, world_size
        return torch.empty(config.batch_size, 0)

    return Source(
        space=Space(("z1", "z2"), potential.bounds),
        draw=draw,
        validation=torch.empty(config.validation_size, 0),
        test=torch.empty(config.test_size, 0),
        potential=potential,
    )


def _table(config: CnfConfig) -> Source:
    name = str(config.data)
    is_file = Path(name).suffix.lower() in FILES
    splits = split_table(read_table(name) if is_file else builtin_table(name), config.seed)
    values = splits.train.values
    count = len(values)

    # A table that does not fill a batch is one: every row, once.
    passes = Passes(count, config.batch_size, config.seed, ORDER)

    def draw(iteration: int, rank: int, world_size: int) -> Tensor:
        rows = values[passes.indices(iteration, rank, world_size)]
        if not config.noise:
            return rows
        noise = generator(config.seed, NOISE, iteration, rank)
        return rows + config.noise * torch.randn(rows.shape, generator=noise)

    return Source(
        space=space_of(splits.train, splits.scaling),
        draw=draw,
        validation=splits.validation.values[: config.validation_size],
        test=splits.test.values,
        rows=count,
    )
