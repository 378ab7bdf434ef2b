"""Predictions of a trained model, to a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from ...atomic import atomic_path
from ...data import DataError, Reading, SeriesSet
from ..errors import ConfigError
from .config import PredictConfig, parse_times
from .trained import Forecast, TrainedSeries, load_series_model

__all__ = ["PredictResult", "predict_run"]

# The variable of events that have no kinds.
EVENT = "event"


@dataclass(frozen=True)
class PredictResult:
    """What was predicted, and where it is.

    Attributes:
        files: What was written.
        series: How many series were predicted.
        times: How many times of each.
        missing: Features of the model that none of the series has.
    """

    files: tuple[Path, ...]
    series: int
    times: int
    missing: tuple[str, ...]

    def summary(self) -> dict[str, str]:
        """Names and values for people."""
        rows = {"series": f"{self.series:,}"}
        if self.times:
            rows["times of each"] = f"{self.times:,}"
        if self.missing:
            rows["variables of the model that are not there"] = ", ".join(self.missing)
        return rows


def predict_run(
    path: Path, options: PredictConfig, announce: Callable[[Reading], None] | None = None
) -> PredictResult:
    """Predict series with the model of the run in the folder `path`.

    Args:
        path: Folder of a run of `train_latent_ode` or `train_neural_cde`.
        options: What to predict, and where to write it.
        announce: Is told what came of reading the series.

    Raises:
        ConfigError: If there is no such run, or an option is wrong.
        DataError: If the series cannot be read, or do not fit the model.
    """
    options.check()
    trained = load_series_model(path, options)
    times = _times(trained, options)
    assert options.input is not None
    series = trained.read(options.input)
    if announce is not None and series.reading is not None:
        announce(series.reading)
    if series.features != trained.space.features:
        raise DataError(
            f"{options.input}: has {', '.join(series.features) or 'events'}, but the model is one "
            f"of {', '.join(trained.space.features) or 'events'}"
        )
    origins = trained.space.origins(series)
    values: list[pd.DataFrame] = []
    classes: list[pd.DataFrame] = []
    first = 0
    for some, forecast in trained.predict(
        series, times, options.level, options.samples, options.seed
    ):
        own = origins[first : first + len(some)]
        first += len(some)
        if forecast.classes is not None:
            classes.append(_classes(some, forecast.classes))
        if times:
            values.append(_values(trained, some, own, times, forecast))
    files = []
    if values:
        files.append(_write(options.out, values))
    if classes:
        name = f"{options.out.stem}.classes{options.out.suffix}"
        files.append(_write(options.out.with_name(name) if values else options.out, classes))
    observed = series.observed.tolist() if series.width else []
    names = zip(series.features, observed, strict=True)
    return PredictResult(
        tuple(files), len(series), len(times), tuple(name for name, count in names if not count)
    )


def _times(trained: TrainedSeries, options: PredictConfig) -> list[float]:
    if not trained.forecasts:
        if options.times is not None:
            raise ConfigError("--times: a classifier says nothing of times; leave it out")
        return []
    if options.times is None:
        raise ConfigError("--times is missing: when to predict, such as 0:48:1 or 1,2,5.5")
    return parse_times(options.times)


def _values(
    trained: TrainedSeries,
    series: SeriesSet,
    origins: Tensor,
    times: list[float],
    forecast: Forecast,
) -> pd.DataFrame:
    """A row for each series, time and variable."""
    features = trained.space.features or (EVENT,)
    count, width = len(series), len(features)
    moments = origins.numpy()[:, None] + np.array(times)
    columns = {
        "subject": np.repeat(np.array(series.subjects, dtype=object), len(times) * width),
        "time": np.repeat(moments.reshape(-1), width),
        "variable": np.tile(np.array(features, dtype=object), count * len(times)),
    }
    for name in ("mean", "lower", "upper", "intensity"):
        values: Tensor | None = getattr(forecast, name)
        if values is not None:
            columns[name] = values.expand(-1, -1, width).double().numpy().reshape(-1)
    return pd.DataFrame(columns)


def _classes(series: SeriesSet, probabilities: Tensor) -> pd.DataFrame:
    frame = pd.DataFrame({"subject": list(series.subjects)})
    for number, column in enumerate(probabilities.double().T):
        frame[f"class_{number}"] = column.numpy()
    return frame


def _write(path: Path, frames: list[pd.DataFrame]) -> Path:
    """Write a table whole or not at all."""
    frame = pd.concat(frames, ignore_index=True)
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".csv":
            # As many digits as tell neighbouring numbers of float32 apart.
            frame.to_csv(temporary, index=False, float_format="%.9g")
        else:
            try:
                frame.to_parquet(temporary, index=False)
            except ImportError as error:
                raise ConfigError(
                    f"--out {path}: Parquet needs pyarrow; install `isocline[parquet]`, or write "
                    "a .csv"
                ) from error
    return path
