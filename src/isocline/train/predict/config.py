"""Settings of `isocline predict`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..config import check_at_least_one, check_positive
from ..errors import ConfigError

__all__ = ["TABLES", "PredictConfig", "parse_times"]

TABLES = (".csv", ".parquet")
# More times than this for each series are a mistake in the step.
MOST = 1_000_000


@dataclass(frozen=True)
class PredictConfig:
    """Predict series with a trained model, in the units of the data."""

    input: Path | None = None
    """Series to predict, in the form of the training data: a file or folder of .csv or .parquet
    with columns subject, time, variable, value, or the data of the PhysioNet Challenge 2012.
    Variables may be missing; others than those of the model are ignored."""
    times: str | None = None
    """When to predict, in the data's unit: a list such as 1,2,5.5, or start:stop:step, such as
    0:48:1, with both ends. Not for classes alone."""
    out: Path = Path("predictions.csv")
    """File to write, .csv or .parquet; its folder must be there. A row for each subject, time and
    variable, with mean, lower and upper; of events, intensity. Class probabilities of each subject
    go into a file beside it, with .classes before the suffix; of a classifier, into this one."""
    level: float = 0.9
    """Probability with which an observation lies between lower and upper."""
    samples: int = 100
    """Samples of the latent state behind each prediction."""
    seed: int = 0
    """Seed of the samples."""
    checkpoint: Literal["best", "last"] | None = None
    """Which weights to use. Default: those that the run kept."""
    tol: float | None = None
    """Tolerance of the solver. Default: the run's own."""
    threads: int | None = None
    """CPU threads. Default: torch's choice."""

    def check(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: If one is wrong.
        """
        if self.input is None:
            raise ConfigError("--input is missing: the file or folder of the series to predict")
        if not self.input.exists():
            raise ConfigError(f"--input {self.input}: there is no such file or folder")
        if self.out.suffix.lower() not in TABLES:
            raise ConfigError(f"--out {self.out} must end in {' or '.join(TABLES)}")
        if not self.out.parent.is_dir():
            raise ConfigError(f"--out {self.out}: there is no folder {self.out.parent}")
        if not 0 < self.level < 1:
            raise ConfigError(f"--level is {self.level}, but must lie between 0 and 1")
        check_at_least_one(self, "samples", "threads")
        check_positive(self, "tol")
        if self.times is not None:
            parse_times(self.times)


def parse_times(text: str) -> list[float]:
    """Times that rise, from ``start:stop:step`` with both ends, or from a list.

    Raises:
        ConfigError: If it is neither.
    """
    parts = text.split(":")
    try:
        if len(parts) == 3:
            start, stop, step = (float(part) for part in parts)
            if not (math.isfinite(stop - start) and stop >= start and step > 0):
                raise ValueError
            count = (stop - start) / step
            if not count < MOST:
                raise ConfigError(f"--times {text}: more than {MOST:,} times; take a larger step")
            # The end counts as reached where rounding alone keeps it off.
            return [start + number * step for number in range(math.floor(count + 1e-9) + 1)]
        if len(parts) != 1:
            raise ValueError
        times = sorted({float(part) for part in text.split(",")})
        if not all(math.isfinite(time) for time in times):
            raise ValueError
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"--times {text!r} is no list of times; give one such as 1,2,5.5, or start:stop:step, "
            "such as 0:48:1"
        ) from error
    return times
