"""Tables of real numbers, for density estimation: what they must be, and the built-in ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn import datasets
from torch import Tensor

from ..errors import InputError
from .errors import DataError

__all__ = [
    "MIN_ROWS",
    "Table",
    "builtin_table",
    "check_width",
    "checked_points",
    "checked_table",
]

# Fewer rows cannot be split in three and say anything of a density.
MIN_ROWS = 10

# Diabetes, scikit-learn's third, is left out: one column is a yes or no, six hold whole numbers and
# one has the same value in 29 % of the rows. A continuous model can raise its likelihood on such
# columns as far as it likes, so that figures on them mean nothing.
_BUILTIN = {"wine": datasets.load_wine, "breast-cancer": datasets.load_breast_cancer}


@dataclass(frozen=True)
class Table:
    """Samples of a vector, one in each row.

    Attributes:
        values: float32, ``(n, d)``.
        columns: Names of the `d` columns.
        name: Where it comes from, for messages.
    """

    values: Tensor
    columns: tuple[str, ...]
    name: str = "table"

    def __post_init__(self) -> None:
        if self.values.dim() != 2 or self.values.shape[1] != len(self.columns):
            raise DataError(
                f"{self.name}: values of shape {tuple(self.values.shape)} came with "
                f"{len(self.columns)} column names; expected (rows, columns) and a name for each"
            )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.columns)

    def take(self, index: Tensor) -> Table:
        """The rows at `index`."""
        return Table(self.values[index], self.columns, self.name)


def check_width(table: Table, expected: int) -> None:
    """Refuse a table that does not fit a model of `expected` columns.

    Raises:
        DataError: If the width differs.
    """
    if table.width != expected:
        raise DataError(
            f"{table.name}: {table.width} column(s) ({_listed(table.columns)}), but the model is "
            f"one of {expected}; give a table with the columns it was trained on, in their order"
        )


def checked_table(values: npt.NDArray[np.generic], columns: tuple[str, ...], name: str) -> Table:
    """Make a table of numbers from anywhere, if a density can be estimated from them.

    Args:
        values: ``(n, d)``, floats or integers.
        columns: Names of the `d` columns.
        name: Where they come from, for messages.

    Raises:
        DataError: If there are not at least ten rows and one column, or a value is NaN or infinite
            (also as float32), or a column is constant.
    """
    exact = _numbers(values, name)
    if len(exact) < MIN_ROWS:
        raise DataError(
            f"{name}: {len(exact)} row(s), but at least {MIN_ROWS} are needed to train, validate "
            "and test; give it more"
        )
    _check_finite(exact, columns, name)
    _check_varies(exact, columns, name)
    return Table(torch.from_numpy(exact.astype(np.float32)), columns, name)


def checked_points(values: npt.NDArray[np.generic], columns: tuple[str, ...], name: str) -> Table:
    """Make a table of points at which something is to be evaluated: one is enough.

    Args:
        values: ``(n, d)``, floats or integers.
        columns: Names of the `d` columns.
        name: Where they come from, for messages.

    Raises:
        DataError: If there are none, or a value is NaN or infinite (also as float32).
    """
    exact = _numbers(values, name)
    _check_finite(exact, columns, name)
    return Table(torch.from_numpy(exact.astype(np.float32)), columns, name)


def _numbers(values: npt.NDArray[np.generic], name: str) -> npt.NDArray[np.float64]:
    if values.ndim != 2:
        raise DataError(
            f"{name}: an array of shape {values.shape}; expected two dimensions, (rows, columns): "
            "reshape it"
        )
    if values.dtype.kind not in "fiu":
        raise DataError(
            f"{name}: values of type {values.dtype}; expected real floats or integers: convert it"
        )
    if values.size == 0:
        raise DataError(f"{name}: empty, its shape is {values.shape}; expected rows of numbers")
    return values.astype(np.float64)


def _check_finite(values: npt.NDArray[np.float64], columns: tuple[str, ...], name: str) -> None:
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"{name}: {len(wrong):,} value(s) are missing, NaN or infinite, the first in row "
            f"{row + 1}, column {columns[column]!r}; drop these rows or fill them in"
        )
    large = np.argwhere(np.abs(values) > np.finfo(np.float32).max)
    if len(large):
        row, column = large[0]
        raise DataError(
            f"{name}: {values[row, column]:g} in row {row + 1}, column {columns[column]!r} is "
            "too large for single precision; measure the column in a larger unit"
        )


def _check_varies(values: npt.NDArray[np.float64], columns: tuple[str, ...], name: str) -> None:
    low, high = values.min(axis=0), values.max(axis=0)
    # As float32, as which they are used, so that a small spread on a large offset is caught too.
    constant = np.flatnonzero(low.astype(np.float32) == high.astype(np.float32))
    if len(constant) == 0:
        return
    first, last = low[constant[0]], high[constant[0]]
    held = f"is {first:.12g} in every row"
    remedy = "leave them out, for they have no density"
    if first != last:
        held = f"goes from {first:.12g} to {last:.12g}, one number in single precision"
        remedy = "subtract an offset"
    names = _listed(tuple(columns[column] for column in constant))
    raise DataError(
        f"{name}: {len(constant)} column(s) do not vary ({names}; the first {held}); {remedy}"
    )


def _listed(names: tuple[str, ...], most: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def builtin_table(name: str) -> Table:
    """A table that comes with scikit-learn, without its classes.

    ``wine`` has 178 rows of 13 columns, ``breast-cancer`` 569 of 30. Both are rounded measurements
    (of wine, magnesium and proline are whole numbers; of breast-cancer, 13 rows have six columns at
    exactly zero), so that log densities compare models, and say little by themselves.

    Raises:
        InputError: If the name is another.
    """
    if name not in _BUILTIN:
        raise InputError("name", repr(name), f"one of {', '.join(_BUILTIN)}")
    data = _BUILTIN[name]()
    columns = tuple(str(column) for column in data.feature_names)
    return checked_table(data.data, columns, name)
