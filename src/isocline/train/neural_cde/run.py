"""Fit a classifier of time series."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import lightning as L
from torch import Tensor

from ...plots import plot_classification, plot_progress, save_figure
from ..checkpoint import load_weights
from ..errors import ConfigError
from ..history import Rows
from ..run import train
from ..rundir import RunDirectory
from ..series.batches import SeriesData, ask, everything
from ..series.config import classes_of
from ..series.scores import class_scores
from ..series.sources import make_source
from ..series.task import Announce, SeriesResult, SeriesTask, costs
from ..trainer import Watched
from .config import NeuralCdeConfig
from .model import build_classifier
from .module import NeuralCdeModule, logits_of, watched

__all__ = ["NeuralCdeResult", "NeuralCdeTask", "train_neural_cde"]

# The stream of random numbers of the test.
TEST = 20


@dataclass(frozen=True)
class NeuralCdeResult(SeriesResult):
    """What a run came to, on test series that nothing chose.

    Attributes:
        classes: Number of classes.
        accuracy: Share of test series whose class it found.
        auc: Area under the ROC curve; of several classes, the mean of one against the rest.
        cross_entropy: In nats per series.
        confusion: Rows: true class; columns: class found.
    """

    classes: int
    accuracy: float
    auc: float | None
    cross_entropy: float
    confusion: list[list[int]]

    def summary(self) -> dict[str, str]:
        """Names and values for people."""
        rows = {
            "series: training, validation, test": ", ".join(f"{n:,}" for n in self.series),
            "test accuracy": f"{100 * self.accuracy:.2f} % ({self.classes} classes)",
        }
        if self.auc is not None:
            rows["test AUC"] = f"{self.auc:.4f}"
        rows["test cross entropy"] = f"{self.cross_entropy:.4f} nats"
        if self.classes <= 6:
            counts = "; ".join(" ".join(map(str, row)) for row in self.confusion)
            rows["confusion, a row for each class"] = counts
        return rows | self.costs()


def train_neural_cde(
    config: NeuralCdeConfig,
    *callbacks: L.Callback,
    announce: Announce | None = None,
) -> NeuralCdeResult | None:
    """Fit a classifier of time series, or go on: `run.train` with a `NeuralCdeTask`.

    Args:
        config: The settings.
        *callbacks: Lightning callbacks of the caller's.
        announce: Is told, before the training, what came of reading a file.
    """
    return train(config, partial(NeuralCdeTask, announce=announce), *callbacks)


class NeuralCdeTask(SeriesTask[NeuralCdeConfig]):
    """A classifier of time series, as a task of the driver.

    Args:
        config: Resolved settings.
        announce: See `train_neural_cde`.

    Raises:
        DataError: If the data cannot be read or learnt from.
        ConfigError: If there are no classes to tell apart.
    """

    def __init__(self, config: NeuralCdeConfig, announce: Announce | None = None) -> None:
        super().__init__(config, make_source(config, config.seed, config.dropped), announce)
        if self.source.space.classes < 2:
            raise ConfigError(
                f"--data {config.data} has {self.source.space.classes or 'no'} class(es), but a "
                "classifier needs two; give labels beside the data, in outcomes.csv"
            )
        # What the model refuses is an error before a folder is made.
        build_classifier(config, self.source.space)
        self.data = SeriesData(config, config.seed, self.source, everything, everything)

    @property
    def watched(self) -> Watched:
        """Losses and scores."""
        return watched(self.config)

    @cached_property
    def module(self) -> NeuralCdeModule:
        """Model, loss and optimiser."""
        return NeuralCdeModule(self.config.to_dict(), self.source.space.to_dict())

    def finish(self, run: RunDirectory, rows: Rows) -> NeuralCdeResult:
        """Score the kept weights on test series, and draw and write it all down."""
        assert self.config.keep is not None
        load_weights(self.module.model, run, self.config.keep)
        batch = ask(self.source.test, everything, self.config.seed, TEST)
        assert batch.labels is not None
        logits, nfe = logits_of(self.module.model, batch)
        result = self._result(run, rows, logits, batch.labels, nfe)
        pictures = {}
        if self.config.pictures:
            pictures = _draw(run, self.config, rows, logits, batch.labels)
        self.write(run, result, result.summary(), pictures)
        return result

    def _result(
        self, run: RunDirectory, rows: Rows, logits: Tensor, labels: Tensor, nfe: float
    ) -> NeuralCdeResult:
        scores = class_scores(logits, labels)
        return NeuralCdeResult(
            **costs(run, self.config.model, self.source, self.module.model, rows, nfe),
            classes=self.source.space.classes,
            accuracy=scores.accuracy,
            auc=scores.auc,
            cross_entropy=scores.cross_entropy,
            confusion=scores.confusion,
        )


def _draw(
    run: RunDirectory, config: NeuralCdeConfig, rows: Rows, logits: Tensor, labels: Tensor
) -> dict[str, str]:
    """Draw the pictures of a run; captions, and names of the files."""
    curves = (("train_loss", "training"), ("validation_loss", "held out"))
    figures = {
        "cross entropy": (
            "training.png", plot_progress(rows, curves, "cross entropy (nats)", title=config.title),
        ),
        "classes": (
            "classes.png",
            plot_classification(logits.softmax(-1), labels, classes_of(config.data), config.title),
        ),
    }  # fmt: skip
    for name, figure in figures.values():
        save_figure(figure, run.path / name)
    return {caption: name for caption, (name, _) in figures.items()}
