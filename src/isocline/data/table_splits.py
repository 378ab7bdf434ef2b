"""Tables split for training, validation and test, and standardised."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .errors import DataError
from .tables import MIN_ROWS, Table, check_width

__all__ = ["Scaling", "TableSplits", "split_table"]


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of each column, and the way to and from the original units.

    Attributes:
        mean: float64, ``(d,)``.
        std: float64, ``(d,)``, positive.
    """

    mean: Tensor
    std: Tensor

    def standardise(self, values: Tensor) -> Tensor:
        """``(values - mean) / std`` for ``(..., d)``, in the type of the values."""
        # In double precision, lest a large mean take the digits away.
        scaled = (values.double() - self.mean.to(values.device)) / self.std.to(values.device)
        return scaled.to(values.dtype)

    def restore(self, values: Tensor) -> Tensor:
        """The inverse of `standardise`: ``values * std + mean``, in the type of the values."""
        scaled = values.double() * self.std.to(values.device) + self.mean.to(values.device)
        return scaled.to(values.dtype)

    @property
    def log_scale(self) -> float:
        """Sum of ``log std``, in nats.

        ``log p(original) = log p(standardised) - log_scale``, by the change of variables.
        """
        return float(self.std.log().sum())

    def apply(self, table: Table) -> Table:
        """The table, standardised.

        Raises:
            DataError: If it is of another width.
        """
        check_width(table, len(self.mean))
        return Table(self.standardise(table.values), table.columns, table.name)


@dataclass(frozen=True)
class TableSplits:
    """The three parts of a table, standardised by the mean and deviation of the training part.

    Attributes:
        train: Rows to train on.
        validation: Rows to choose the model by.
        test: Rows to report on.
        scaling: To and from the original units.
        duplicates: How many rows were dropped, because an equal one came before.
    """

    train: Table
    validation: Table
    test: Table
    scaling: Scaling
    duplicates: int


def split_table(
    table: Table, seed: int = 0, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> TableSplits:
    """Split a table at random into disjoint parts, and standardise them.

    Repeated rows are dropped first. Under a density two equal rows have probability zero, so they
    are copies; and a copy that lies in training and test alike lets a model that memorises look
    good, without bound.

    Args:
        table: The whole.
        seed: Which split; the same seed gives the same split everywhere.
        fractions: Parts for training, validation and test. Each part has at least one row.

    Raises:
        InputError: If the fractions are not positive with the sum 1.
        DataError: If fewer than ten different rows are left, or none to train on, or a column that
            varies in the whole does not in the training part.
    """
    if min(fractions) <= 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise InputError("fractions", repr(fractions), "three positive numbers with the sum 1")
    # In sorted order, so that the split does not depend on that of the file either.
    whole = Table(
        torch.from_numpy(np.unique(table.values.numpy(), axis=0)), table.columns, table.name
    )
    if len(whole) < MIN_ROWS:
        raise DataError(
            f"{table.name}: {len(whole)} different row(s) among {len(table)}, but at least "
            f"{MIN_ROWS} are needed to train, validate and test; give it more"
        )
    validation, test = (max(1, round(part * len(whole))) for part in fractions[1:])
    sizes = [len(whole) - validation - test, validation, test]
    if sizes[0] < 1:
        raise DataError(
            f"{table.name}: {validation} of {len(whole)} row(s) to validate and {test} to test "
            "leave none to train on; use a larger first fraction, or more rows"
        )
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    parts = [whole.take(index) for index in order.split(sizes)]
    scaling = _scaling(parts[0])
    train, held_out, last = (scaling.apply(part) for part in parts)
    return TableSplits(train, held_out, last, scaling, len(table) - len(whole))


def _scaling(train: Table) -> Scaling:
    values = train.values.double()
    flat = (values == values[0]).all(dim=0).nonzero().flatten().tolist()
    if flat:
        raise DataError(
            f"{train.name}: column {train.columns[flat[0]]!r} has one value in all {len(train)} "
            "training row(s), though it varies elsewhere; leave it out, or split with another seed"
        )
    return Scaling(values.mean(dim=0), values.std(dim=0, correction=0))
