"""Fit a classifier of time series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial

import lightning as L
from torch import Tensor

from ...data import Reading
from ...plots import plot_classification, plot_progress, save_figure
from ..checkpoint import load_weights
from ..errors import ConfigError
from ..files import write_json
from ..history import Rows
from ..report import write_report
from ..run import first_process, train
from ..rundir import RunDirectory
from ..series.batches import SeriesData, ask, everything
from ..series.scores import class_scores, seconds_per_iteration
from ..series.sources import make_source
from ..trainer import Watched
from .config import NeuralCdeConfig
from .model import build_classifier
from .module import NeuralCdeModule, logits_of, watched

__all__ = ["NeuralCdeResult", "NeuralCdeTask", "train_neural_cde"]

# The stream of random numbers of the test.
TEST = 20


@dataclass(frozen=True)
class NeuralCdeResult:
    """What a run came to, on test series that nothing chose.

    Attributes:
        path: The run's folder.
        model: Which model.
        series: Numbers of series to train, validate and test.
        classes: Number of classes.
        accuracy: Share of test series whose class it found.
        auc: Area under the ROC curve; of several classes, the mean of one against the rest.
        cross_entropy: In nats per series.
        confusion: Rows: true class; columns: class found.
        validation: The best cross entropy in validation.
        parameters: Number of parameters.
        nfe_forward: Mean evaluations per forward pass in the last epoch; 0 without a solve.
        nfe_backward: Mean evaluations per backward pass in the last epoch.
        nfe_test: Mean evaluations in a pass over test series.
        seconds_per_iteration: Median over the epochs, without the measurements between.
        seconds_training: Sum over all iterations.
        iterations: Iterations trained.
    """

    path: str
    model: str
    series: tuple[int, int, int]
    classes: int
    accuracy: float
    auc: float | None
    cross_entropy: float
    confusion: list[list[int]]
    validation: float
    parameters: int
    nfe_forward: float
    nfe_backward: float
    nfe_test: float
    seconds_per_iteration: float
    seconds_training: float
    iterations: int

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
        rows["best loss in validation"] = f"{self.validation:.4f}"
        rows["parameters"] = f"{self.parameters:,}"
        if self.nfe_forward:
            rows["NFE forward / backward"] = f"{self.nfe_forward:.1f} / {self.nfe_backward:.1f}"
            rows["NFE on test series"] = f"{self.nfe_test:.1f}"
        rows["time per iteration"] = f"{1e3 * self.seconds_per_iteration:.2f} ms"
        rows["iterations, training time"] = f"{self.iterations:,}, {self.seconds_training:.1f} s"
        return rows


def train_neural_cde(
    config: NeuralCdeConfig,
    *callbacks: L.Callback,
    announce: Callable[[Reading], None] | None = None,
) -> NeuralCdeResult | None:
    """Fit a classifier of time series, or go on: `run.train` with a `NeuralCdeTask`.

    Args:
        config: The settings.
        *callbacks: Lightning callbacks of the caller's.
        announce: Is told, before the training, what came of reading a file.
    """
    return train(config, partial(NeuralCdeTask, announce=announce), *callbacks)


class NeuralCdeTask:
    """A classifier of time series, as a task of the driver.

    Args:
        config: Resolved settings.
        announce: See `train_neural_cde`.

    Raises:
        DataError: If the data cannot be read or learnt from.
        ConfigError: If there are no classes to tell apart.
    """

    def __init__(
        self, config: NeuralCdeConfig, announce: Callable[[Reading], None] | None = None
    ) -> None:
        self.config = config
        self.source = make_source(config, config.seed, config.dropped)
        if announce is not None and self.source.reading is not None and first_process():
            announce(self.source.reading)
        if self.source.space.classes < 2:
            raise ConfigError(
                f"--data {config.data} has {self.source.space.classes or 'no'} class(es), but a "
                "classifier needs two; give labels beside the data, in outcomes.csv"
            )
        # What the model refuses is an error before a folder is made.
        build_classifier(config, self.source.space)
        self.data = SeriesData(config, config.seed, self.source, everything, everything)

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return self.data.epochs

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
        write_json(run.result_file, asdict(result))
        data = {} if self.source.reading is None else self.source.reading.summary()
        write_report(run, self.config, result.summary(), pictures, {"Data": data})
        return result

    def _result(
        self, run: RunDirectory, rows: Rows, logits: Tensor, labels: Tensor, nfe: float
    ) -> NeuralCdeResult:
        scores = class_scores(logits, labels)
        return NeuralCdeResult(
            path=str(run.path),
            model=self.config.model,
            series=self.source.sizes,
            classes=self.source.space.classes,
            accuracy=scores.accuracy,
            auc=scores.auc,
            cross_entropy=scores.cross_entropy,
            confusion=scores.confusion,
            validation=min(row["validation_loss"] for row in rows),
            parameters=sum(parameter.numel() for parameter in self.module.model.parameters()),
            nfe_forward=rows[-1].get("nfe_forward", 0.0),
            nfe_backward=rows[-1].get("nfe_backward", 0.0),
            nfe_test=nfe,
            seconds_per_iteration=seconds_per_iteration(rows),
            seconds_training=sum(row["training_seconds"] for row in rows),
            iterations=int(rows[-1]["step"]),
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
            "classes.png", plot_classification(logits.softmax(-1), labels, title=config.title),
        ),
    }  # fmt: skip
    for name, figure in figures.values():
        save_figure(figure, run.path / name)
    return {caption: name for caption, (name, _) in figures.items()}
