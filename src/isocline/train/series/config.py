"""Settings that runs on time series share: where the series come from, and how they are fitted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..config import check_at_least_one, check_not_negative, check_positive
from ..errors import ConfigError

__all__ = [
    "GENERATED",
    "PHYSIONET",
    "FitSettings",
    "SeriesSettings",
    "check_fit",
    "check_series",
    "classes_of",
    "kind_of_data",
    "series_defaults",
    "subject_of",
    "unit_of",
]

# Drawn from the seed.
GENERATED = ("spirals", "events", "signals", "stays")
PHYSIONET = "physionet"

# Points of a spiral that may be observed.
SPIRAL_POINTS = 100

_BINS = {PHYSIONET: 2.0}
_OUTLIERS = {PHYSIONET: "clip"}
_SPANS = {"spirals": 6.28, "events": 4.0}


@dataclass(frozen=True)
class SeriesSettings:
    """Time series, and how they are read."""

    data: str = "spirals"
    """Series to learn from. Drawn from the seed: spirals (half of them mirrored), events (of known
    intensities), signals (whose class is the order in which a wave comes), stays (simulated
    intensive care); physionet (the real thing, see --path); or the path of a file or folder: .csv
    or .parquet with columns subject, time, variable, value, or the data of the PhysioNet Challenge
    2012."""
    path: Path | None = None
    """Where the data of --data physionet are: the challenge's folder of text files, or one .npz,
    .csv or .parquet file."""
    outcomes: Path | None = None
    """File of the outcomes, where it is not beside the data."""
    number: int = 1000
    """Training series, of those that are drawn."""
    observed: int | None = None
    """Points that are kept of the 100 of each spiral, at random. Default: 100."""
    noise: float = 0.1
    """Standard deviation of the noise on spirals."""
    intensity: Literal["bumps", "daily", "decaying"] = "bumps"
    """Of events: what the intensities are, each of them moved in time and scaled."""
    bin: float | None = None
    """Round times to multiples of this, in the data's unit, and take the mean of what meets there;
    series then share their times, and have fewer rows. 0: leave them. Default: 2 (hours) for
    physionet, 0 otherwise."""
    outliers: Literal["clip", "keep"] | None = None
    """clip: values of files beyond the quantiles 0.001 and 0.999 of the training data are set to
    these. Default: clip for physionet, keep otherwise."""
    align: bool = False
    """Count the times of each series of a file from its first row."""
    span: float | None = None
    """How long the model's time is for the longest training series (for generated series: for the
    time that may be observed). Default: 6.28 for spirals, whose turn that is, 4 for events, 1
    otherwise."""
    validation_size: int = 200
    """Generated series on which the best weights are chosen; of a file, a tenth of the subjects."""
    test_size: int = 1000
    """Generated series for the result; of a file, a fifth of the subjects."""


@dataclass(frozen=True)
class FitSettings:
    """How a model of time series is fitted."""

    iterations: int | None = None
    """Iterations of the whole run."""
    batch_size: int | None = None
    """Series per iteration and process."""
    lr: float | None = None
    """Learning rate of Adam."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """cosine: short warm-up, then half a cosine down to zero; constant: the warm-up alone."""
    clip: float = 1.0
    """Longest gradient: a longer one is scaled down to it."""
    weight_decay: float = 0.0
    """Weight decay (decoupled)."""
    eval_every: int | None = None
    """Iterations from one measurement on held-out series to the next; each is a row of
    metrics.csv."""
    keep: Literal["best", "last"] | None = None
    """Which weights the result is of: best, by the loss on held-out series, or last. Where the
    held-out series are few, their choice is mostly luck. Default: last for physionet, best
    otherwise."""


def kind_of_data(data: str) -> str:
    """One of `GENERATED`, ``physionet``, or ``file`` for a path."""
    return data if data in (*GENERATED, PHYSIONET) else "file"


def unit_of(data: str) -> str:
    """What times are, for the axes of figures."""
    return "hours" if kind_of_data(data) in (PHYSIONET, "stays") else "time"


def classes_of(data: str) -> tuple[str, ...]:
    """What labels from 0 on mean, for figures; nothing where that is not known."""
    if kind_of_data(data) in (PHYSIONET, "stays"):
        return ("lived", "died")
    return ("counter-clockwise", "clockwise") if data == "spirals" else ()


def subject_of(data: str) -> str:
    """A short name of the data, for folders and titles."""
    return Path(data).stem if kind_of_data(data) == "file" else data


def series_defaults(data: str) -> dict[str, Any]:
    """Defaults of the settings of data and fit that are alike for all models."""
    kind = kind_of_data(data)
    return {
        "bin": _BINS.get(kind, 0.0),
        "outliers": _OUTLIERS.get(kind, "keep"),
        "span": _SPANS.get(kind, 1.0),
        "keep": "last" if kind == PHYSIONET else "best",
    }


def check_series(config: SeriesSettings) -> None:
    """Check the settings of the data, with the defaults filled in.

    Raises:
        ConfigError: If one is wrong, or meant for other data.
    """
    check_at_least_one(config, "number", "observed", "validation_size", "test_size")
    check_positive(config, "span")
    check_not_negative(config, "noise", *(("bin",) if config.bin is not None else ()))
    kind = kind_of_data(config.data)
    if kind == "file" and not Path(config.data).exists():
        names = ", ".join((*GENERATED, PHYSIONET))
        raise ConfigError(
            f"--data {config.data}: there is no such file or folder, and it is none of {names}"
        )
    if kind == PHYSIONET and config.path is None:
        raise ConfigError(
            "--data physionet needs --path, the folder or file of the PhysioNet Challenge 2012 "
            "(physionet.org/content/challenge-2012)"
        )
    if kind != PHYSIONET and config.path is not None:
        raise ConfigError("--path is for --data physionet; give the path of other data to --data")
    if kind in GENERATED:
        for name in ("outcomes", "bin", "outliers", "align"):
            if getattr(config, name) not in (None, False, 0.0, "keep"):
                raise ConfigError(f"--{name} is for data of files; leave it out with {kind}")
    if config.observed is not None:
        if kind != "spirals":
            raise ConfigError("--observed is for --data spirals; see --hide for files")
        if config.observed > SPIRAL_POINTS:
            raise ConfigError(f"--observed is {config.observed}, but a spiral has {SPIRAL_POINTS}")


def check_fit(config: FitSettings) -> None:
    """Check the settings of the optimisation, with the defaults filled in.

    Raises:
        ConfigError: If one is wrong.
    """
    check_at_least_one(config, "iterations", "batch_size", "eval_every")
    check_positive(config, "lr", "clip")
    check_not_negative(config, "weight_decay")
