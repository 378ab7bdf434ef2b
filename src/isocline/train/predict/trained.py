"""A trained model of series, in the units of its data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...data import PHYSIONET_FEATURES, SeriesSet, read_physionet
from ...irregular import IrregularBatch
from ...nn import LatentODE, NeuralCDE, SeriesClassifier
from ..checkpoint import load_weights, read_checkpoint
from ..errors import ConfigError
from ..latent_ode import LatentOdeConfig
from ..latent_ode.model import SeriesModel, build_model
from ..neural_cde import NeuralCdeConfig
from ..neural_cde.model import build_classifier
from ..rundir import RunDirectory
from ..seeding import generator
from ..series.solves import evaluating, solves_of
from ..series.sources import read_file
from ..series.space import SeriesSpace
from .config import PredictConfig

__all__ = ["Forecast", "TrainedSeries", "load_series_model"]

# Series in a solve without a graph.
BATCH = 128


@dataclass(frozen=True)
class Forecast:
    """What a model says of some series, in the units of the data.

    Attributes:
        mean: ``(series, times, features)``; ``None`` of events alone, and of classifiers.
        lower: The lower end of the interval, shaped so.
        upper: The upper end.
        intensity: Events per unit of time, ``(series, times, kinds)``, or ``None``.
        classes: Probabilities, ``(series, classes)``, or ``None``.
    """

    mean: Tensor | None = None
    lower: Tensor | None = None
    upper: Tensor | None = None
    intensity: Tensor | None = None
    classes: Tensor | None = None


@dataclass(frozen=True)
class TrainedSeries:
    """Predictions of a model, without gradients.

    Attributes:
        model: The model, in its own units.
        space: The way between its units and the data's.
        binary: Whether values are 0 or 1.
    """

    model: SeriesModel | NeuralCDE | SeriesClassifier
    space: SeriesSpace
    binary: bool = False

    @property
    def forecasts(self) -> bool:
        """Whether it says anything of given times."""
        return isinstance(self.model, SeriesModel)

    @property
    def kinds(self) -> int:
        """Kinds of events whose intensity it knows."""
        events = self.model.events if isinstance(self.model, SeriesModel) else None
        return 0 if events is None else events.kinds

    def read(self, path: Path) -> SeriesSet:
        """Read series with the features of the model; what it does not know is counted.

        Raises:
            DataError: If they cannot be read, or none has a feature of the model.
        """
        if self.space.features == PHYSIONET_FEATURES:
            return read_physionet(path)
        return read_file(str(path), features=self.space.features or None)

    def predict(
        self, series: SeriesSet, times: list[float], level: float, samples: int, seed: int
    ) -> Iterator[tuple[SeriesSet, Forecast]]:
        """Predict series, some at a time.

        Args:
            series: In the units of the data.
            times: In the unit of the data; where the model's series are aligned, counted from the
                first row of each.
            level: Of the intervals.
            samples: Of the latent state.
            seed: Of the samples.
        """
        own = self.space.prepared(series).scaled(self.space.scaling)
        moments = self.space.scaling.standardise_times(torch.tensor(times).double()).float()
        for number, first in enumerate(range(0, len(own), BATCH)):
            some = slice(first, first + BATCH)
            batch = own.batch(some)
            if isinstance(self.model, SeriesModel):
                draws = generator(seed, number)
                yield series.subset(some), self._forecast(batch, moments, level, samples, draws)
            else:
                with evaluating(self.model):
                    yield series.subset(some), Forecast(classes=self.model(batch).softmax(-1))

    def _forecast(
        self,
        batch: IrregularBatch,
        times: Tensor,
        level: float,
        samples: int,
        draws: torch.Generator,
    ) -> Forecast:
        model, scaling = self.model, self.space.scaling
        assert isinstance(model, SeriesModel)
        mean = lower = upper = intensity = None
        with evaluating(model):
            if self.space.width:
                prediction = model.predict(batch, times, samples, draws)
                parts = (prediction.mean, *prediction.interval(level))
                mean, lower, upper = (scaling.restore(part.double()) for part in parts)
            if self.binary and lower is not None and upper is not None:
                lower, upper = lower.clamp(0, 1), upper.clamp(0, 1)
            if self.kinds:
                assert isinstance(model.core, LatentODE)
                intensity = model.core.intensity(batch, times) / scaling.time_scale
            logits = model.logits(batch)
        return Forecast(
            mean, lower, upper, intensity, None if logits is None else logits.softmax(-1)
        )


def load_series_model(path: Path, options: PredictConfig) -> TrainedSeries:
    """Load the model of the run in the folder `path`.

    Args:
        path: Folder of a run of `train_latent_ode` or `train_neural_cde`.
        options: Which weights, and how to solve.

    Raises:
        ConfigError: If there is no such run, it is of another kind, or has no such weights.
    """
    run = RunDirectory(path)
    kind = run.read_kind()
    if kind not in (LatentOdeConfig.kind, NeuralCdeConfig.kind):
        raise ConfigError(
            f"{path} is a run of the kind {kind}; `isocline predict` is for those of "
            f"{LatentOdeConfig.kind} and {NeuralCdeConfig.kind}"
        )
    config: LatentOdeConfig | NeuralCdeConfig
    if kind == LatentOdeConfig.kind:
        config = run.read_config(LatentOdeConfig)
    else:
        config = run.read_config(NeuralCdeConfig)
    checkpoint = options.checkpoint or config.keep or "best"
    file = run.checkpoint(checkpoint)
    try:
        space = SeriesSpace.from_dict(read_checkpoint(file)["hyper_parameters"]["space"])
    except KeyError as error:
        raise ConfigError(f"{file} is no checkpoint of series ({error} is missing)") from error
    model: SeriesModel | NeuralCDE | SeriesClassifier
    if isinstance(config, LatentOdeConfig):
        model = build_model(config, space)
    else:
        model = build_classifier(config, space)
    load_weights(model, run, checkpoint)
    if options.tol is not None:
        for module in solves_of(model):
            module.rtol = module.atol = options.tol
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    binary = isinstance(config, LatentOdeConfig) and config.likelihood == "bernoulli"
    return TrainedSeries(model.eval(), space, binary)
