"""Fit a latent ODE, or a recurrent model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import lightning as L

from ..checkpoint import load_weights
from ..errors import ConfigError
from ..history import Rows
from ..report import Mean
from ..run import train
from ..rundir import RunDirectory
from ..series.batches import Ask, SeriesData, ask, everything, hide, window
from ..series.parts import Source
from ..series.sources import make_source
from ..series.task import Announce, SeriesResult, SeriesTask, costs
from ..trainer import Watched
from .config import LatentOdeConfig
from .measure import EventScores, Scores, event_scores, score, truth_errors
from .model import build_model
from .module import LatentOdeModule, watched
from .pictures import draw_pictures

__all__ = ["LatentOdeResult", "LatentOdeTask", "train_latent_ode"]

# The stream of random numbers of the test.
TEST = 20


@dataclass(frozen=True)
class LatentOdeResult(SeriesResult):
    """What a run came to, on test series that nothing chose.

    Attributes:
        test_elbo: Mean over the series of the evidence lower bound, in nats, of values in the units
            of the model; of a forecaster, the log-likelihood.
        standard_error: Of it.
        test_kl: The mean divergence of the posterior from the prior in it.
        test_per_value: The bound per observed value.
        truth_rmse: Root mean square errors against the known truth, of generated series: inside the
            time that was observed, and over so many points beyond.
        events: Comparison with the known intensities, of generated events.
        rmse: The same of observed values in the units of the model: of those that were hidden, if
            any were; else of those that a latent ODE has read, or a forecaster was about to read.
        rmse_by_feature: These in the units of the data.
        hidden: Whether they were hidden.
        auc: Area under the ROC curve of the classifier; ``None`` without one.
        accuracy: Share of series whose class it found.
        confusion: Rows: true class; columns: class found.
    """

    test_elbo: float
    standard_error: float
    test_kl: float
    test_per_value: float
    truth_rmse: dict[str, float]
    events: EventScores | None
    rmse: float | None
    rmse_by_feature: dict[str, float]
    hidden: bool
    auc: float | None
    accuracy: float | None
    confusion: list[list[int]] | None

    def summary(self) -> dict[str, str]:
        """Names and values for people."""
        latent = self.model == "latent-ode"
        name = "ELBO" if latent else "log-likelihood"
        bound = str(Mean(self.test_elbo, self.standard_error, digits=3))
        rows = {
            "series: training, validation, test": ", ".join(f"{n:,}" for n in self.series),
            f"test {name} per series": f"{bound} (KL {self.test_kl:.2f})" if latent else bound,
            f"test {name} per value": f"{self.test_per_value:.4f} nats",
        }
        for span, value in self.truth_rmse.items():
            where = "inside" if span == "inside" else f"over {span} points beyond"
            rows[f"RMSE to the truth, {where}"] = f"{value:.4f}"
        if self.events is not None:
            true = self.events.true_log_likelihood
            rows["log-likelihood per series, true intensity"] = f"{true:.3f} nats"
            error, constant = self.events.intensity_rmse, self.events.constant_rmse
            text = f"{100 * error:.1f} % (of a constant rate: {100 * constant:.1f} %)"
            rows["RMSE of the intensity, of its mean"] = text
        if self.rmse is not None:
            seen = "reconstructed" if latent else "one row ahead"
            rows[f"RMSE, {'hidden values' if self.hidden else seen}"] = f"{self.rmse:.4f}"
        if self.auc is not None:
            rows["test AUC"] = f"{self.auc:.4f}"
        if self.accuracy is not None:
            rows["test accuracy"] = f"{100 * self.accuracy:.2f} %"
        return rows | self.costs()


def train_latent_ode(
    config: LatentOdeConfig,
    *callbacks: L.Callback,
    announce: Announce | None = None,
) -> LatentOdeResult | None:
    """Fit a model of time series, or go on: `run.train` with a `LatentOdeTask`.

    Args:
        config: The settings.
        *callbacks: Lightning callbacks of the caller's.
        announce: Is told, before the training, what came of reading a file.
    """
    return train(config, partial(LatentOdeTask, announce=announce), *callbacks)


class LatentOdeTask(SeriesTask[LatentOdeConfig]):
    """A model of time series, as a task of the driver.

    Args:
        config: Resolved settings.
        announce: See `train_latent_ode`.

    Raises:
        DataError: If the data cannot be read or learnt from.
    """

    def __init__(self, config: LatentOdeConfig, announce: Announce | None = None) -> None:
        source = make_source(config, config.seed, binary=config.likelihood == "bernoulli")
        super().__init__(config, source, announce)
        if not self.source.space.width and not config.counts_events:
            raise ConfigError(
                f"--data {config.data} has times alone, without values; give --events to model them"
            )
        # What the model refuses is an error before a folder is made.
        build_model(config, self.source.space)
        training, self.asked = _questions(config, self.source)
        self.data = SeriesData(config, config.seed, self.source, training, self.asked)

    @property
    def watched(self) -> Watched:
        """Losses and scores."""
        return watched(self.config, self.source.space)

    @cached_property
    def module(self) -> LatentOdeModule:
        """Model, loss and optimiser."""
        return LatentOdeModule(self.config.to_dict(), self.source.space.to_dict())

    def finish(self, run: RunDirectory, rows: Rows) -> LatentOdeResult:
        """Score the kept weights on test series, and draw and write it all down."""
        module, config, source = self.module, self.config, self.source
        assert config.keep is not None
        load_weights(module.model, run, config.keep)
        batch = ask(source.test, self.asked, config.seed, TEST)
        scores = score(module.model, batch, config.seed, TEST)
        result = self._result(run, rows, scores)
        pictures = {}
        if config.pictures:
            pictures = draw_pictures(run, config, module.model.cpu(), source, batch, rows)
        self.write(run, result, result.summary(), pictures, {"Errors": _by_feature(result)})
        return result

    def _result(self, run: RunDirectory, rows: Rows, scores: Scores) -> LatentOdeResult:
        source, model = self.source, self.module.model
        classes, errors, space = scores.classes, scores.errors, source.space
        by_feature = {}
        if errors is not None:
            own = space.scaling.restore_std(errors.by_feature).tolist()
            by_feature = dict(zip(space.features, own, strict=True))
        events = None
        if source.test.intensities:
            events = event_scores(model, source.test, space)
        return LatentOdeResult(
            **costs(run, self.config.model, source, model, rows, scores.nfe),
            test_elbo=scores.elbo.value,
            standard_error=scores.elbo.error,
            test_kl=scores.kl,
            test_per_value=scores.per_value,
            truth_rmse={} if source.test.truth is None else truth_errors(model, source.test),
            events=events,
            rmse=None if errors is None else errors.rmse,
            rmse_by_feature=by_feature,
            hidden=bool(self.config.hide) and errors is not None,
            auc=None if classes is None else classes.auc,
            accuracy=None if classes is None else classes.accuracy,
            confusion=None if classes is None else classes.confusion,
        )


def _questions(config: LatentOdeConfig, source: Source) -> tuple[Ask, Ask]:
    """What the model is asked of series in training, and of those held out."""
    if config.hide and source.space.width:
        return hide(config.hide), hide(config.hide)
    if config.windows is not None:
        return window(config.windows, source.space.until), everything
    return everything, everything


def _by_feature(result: LatentOdeResult) -> dict[str, str]:
    """Errors for the report; of the spirals there is better."""
    if result.truth_rmse:
        return {}
    return {f"RMSE of {name}": f"{value:.4g}" for name, value in result.rmse_by_feature.items()}
