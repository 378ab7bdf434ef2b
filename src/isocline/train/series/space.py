"""Where the series of a model live: their features, and the way to the units of the model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...data import Scaling, SeriesScaling, SeriesSet

__all__ = ["SeriesSpace"]


@dataclass(frozen=True)
class SeriesSpace:
    """What a model needs to know of its data once it is trained; it travels in the checkpoint.

    Attributes:
        features: Names of the features; none for events.
        scaling: From the data's units to those of the model.
        classes: Number of classes of the labels; 0 where there are no labels.
        bin: Width of the grid of times, in the data's unit; 0 for none.
        align: Whether the times of a series are counted from its first row.
        until: End of the windows in which the series were watched, the latest of them, in the
            model's unit.
        rates: Mean rate of the observed values of each feature in the model's unit of time (of the
            rows, where there are no features): where intensities start.
        gap: Usual time between rows, in the model's unit.
        complete: Whether every row has all features.
    """

    features: tuple[str, ...]
    scaling: SeriesScaling
    classes: int = 0
    bin: float = 0.0
    align: bool = False
    until: float = 1.0
    rates: tuple[float, ...] = ()
    gap: float = 1.0
    complete: bool = False

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.features)

    def origins(self, series: SeriesSet) -> Tensor:
        """What is taken from the times of each series, ``(series,)``, float64."""
        if not self.align:
            return torch.zeros(len(series), dtype=torch.float64)
        first = [float(time[0]) if len(time) else 0.0 for time in series.times]
        return torch.tensor(first, dtype=torch.float64)

    def prepared(self, series: SeriesSet) -> SeriesSet:
        """The series with their times aligned and on the grid, still in the data's units."""
        if self.align:
            series = _shifted(series, self.origins(series))
        return series.quantised(self.bin) if self.bin and series.width else series

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for checkpoints."""
        values, limits = self.scaling.values, self.scaling.limits
        return {
            "features": list(self.features),
            "mean": values.mean.tolist(),
            "std": values.std.tolist(),
            "limits": None if limits is None else [limit.tolist() for limit in limits],
            "time_scale": self.scaling.time_scale,
            "classes": self.classes,
            "bin": self.bin,
            "align": self.align,
            "until": self.until,
            "rates": list(self.rates),
            "gap": self.gap,
            "complete": self.complete,
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> SeriesSpace:
        """Undo `to_dict`."""

        def tensor(numbers: list[float]) -> Tensor:
            return torch.tensor(numbers, dtype=torch.float64)

        limits = values["limits"]
        scaling = SeriesScaling(
            Scaling(tensor(values["mean"]), tensor(values["std"])),
            values["time_scale"],
            None if limits is None else (tensor(limits[0]), tensor(limits[1])),
        )
        names = ("classes", "bin", "align", "until", "gap", "complete")
        return SeriesSpace(
            tuple(values["features"]),
            scaling,
            rates=tuple(values["rates"]),
            **{name: values[name] for name in names},
        )


def _shifted(series: SeriesSet, origins: Tensor) -> SeriesSet:
    """The set with `origins` taken from the times of each series."""
    times = tuple(
        (time.double() - origin).to(time.dtype)
        for time, origin in zip(series.times, origins, strict=True)
    )
    until = None if series.until is None else (series.until.double() - origins).to(series.until)
    return dataclasses.replace(series, times=times, until=until)
