"""Where the data of a flow live: their columns, and the way to the units in which it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...data import Bounds, Scaling, Table

__all__ = ["Space", "space_of"]

# Around the data of a table with two columns, as a share of their range.
MARGIN = 0.15


@dataclass(frozen=True)
class Space:
    """What a flow needs to know of its data once it is trained; it travels in the checkpoint.

    Attributes:
        columns: Names of the columns.
        bounds: Rectangle for pictures, in the data's units; ``None`` unless there are two columns.
        scaling: From the data's units to the standardised ones of the flow; ``None`` where the
            flow is trained on the data as they are.
    """

    columns: tuple[str, ...]
    bounds: Bounds | None = None
    scaling: Scaling | None = None

    @property
    def features(self) -> int:
        """Number of columns."""
        return len(self.columns)

    @property
    def log_scale(self) -> float:
        """What a log density loses on the way to the data's units, in nats."""
        return 0.0 if self.scaling is None else self.scaling.log_scale

    def standardise(self, values: Tensor) -> Tensor:
        """From the data's units to the flow's, ``(..., features)``."""
        return values if self.scaling is None else self.scaling.standardise(values)

    def restore(self, values: Tensor) -> Tensor:
        """From the flow's units to the data's, ``(..., features)``."""
        return values if self.scaling is None else self.scaling.restore(values)

    def standardised_bounds(self, bounds: Bounds) -> Bounds:
        """A rectangle of the data's units in those of the flow."""
        left, right, bottom, top = bounds
        corners = torch.tensor([[left, bottom], [right, top]], dtype=torch.float64)
        (left, bottom), (right, top) = self.standardise(corners).tolist()
        return left, right, bottom, top

    def standardised(self) -> Space:
        """The same, with the flow's units as those of the data."""
        bounds = None if self.bounds is None else self.standardised_bounds(self.bounds)
        return Space(self.columns, bounds)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for checkpoints."""
        scaling = self.scaling
        return {
            "columns": list(self.columns),
            "bounds": None if self.bounds is None else list(self.bounds),
            "mean": None if scaling is None else scaling.mean.tolist(),
            "std": None if scaling is None else scaling.std.tolist(),
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Space:
        """Undo `to_dict`."""
        scaling = None
        if values["mean"] is not None:
            mean, std = (
                torch.tensor(values[name], dtype=torch.float64) for name in ("mean", "std")
            )
            scaling = Scaling(mean, std)
        bounds = None
        if values["bounds"] is not None:
            left, right, bottom, top = values["bounds"]
            bounds = (left, right, bottom, top)
        return Space(tuple(values["columns"]), bounds, scaling)


def space_of(train: Table, scaling: Scaling) -> Space:
    """The space of a table, from its standardised training rows."""
    bounds = None
    if train.width == 2:
        own = scaling.restore(train.values)
        low, high = own.amin(0), own.amax(0)
        margin = MARGIN * (high - low)
        (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
        bounds = (left, right, bottom, top)
    return Space(train.columns, bounds, scaling)
