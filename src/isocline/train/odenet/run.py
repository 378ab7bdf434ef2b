"""Train the image classifier."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from functools import cached_property

import lightning as L

from ...plots import plot_error, plot_nfe, save_figure
from ..checkpoint import load_weights
from ..files import write_json
from ..history import Columns, Rows
from ..report import write_report
from ..run import train
from ..rundir import RunDirectory
from ..trainer import Watched
from .config import OdenetConfig
from .data import VALIDATION_BATCH, OdenetData, load_splits
from .measure import score
from .module import OdenetModule

__all__ = ["WATCHED", "OdenetResult", "OdenetTask", "train_odenet"]

WATCHED = Watched(
    columns=Columns(
        averaged=("train_loss", "train_error", "nfe_forward", "nfe_backward"),
        validated=("validation_loss", "validation_error"),
    ),
    monitor="validation_error",
    mode="min",
    shown={
        "train_loss": "loss",
        "validation_error": "error",
        "nfe_forward": "NFE",
        "nfe_backward": "NFE",
    },
)


@dataclass(frozen=True)
class OdenetResult:
    """What a run came to.

    Attributes:
        path: The run's folder.
        test_error: Error on the test set with the weights that did best in validation, per cent.
        validation_error: The best error on the validation set, per cent.
        parameters: Number of parameters.
        nfe_forward: Mean evaluations per forward pass in the last epoch; 0 for a ResNet.
        nfe_backward: Mean evaluations per backward pass in the last epoch.
        seconds_per_epoch: Median over the epochs.
        epochs: Epochs trained, those before a resumption included.
        steps: Iterations trained.
    """

    path: str
    test_error: float
    validation_error: float
    parameters: int
    nfe_forward: float
    nfe_backward: float
    seconds_per_epoch: float
    epochs: int
    steps: int


def train_odenet(config: OdenetConfig, *callbacks: L.Callback) -> OdenetResult | None:
    """Train an image classifier, or go on training it: `run.train` with an `OdenetTask`."""
    return train(config, OdenetTask, *callbacks)


class OdenetTask:
    """Cross entropy of an image classifier, as a task of the driver.

    Args:
        config: Resolved settings.

    Raises:
        DataError: If the data cannot be read, or fill no batch.
    """

    watched = WATCHED

    def __init__(self, config: OdenetConfig) -> None:
        self.config = config
        self.data = OdenetData(config, load_splits(config))

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return self.data.plan(self.config.devices)[0]

    @cached_property
    def module(self) -> OdenetModule:
        """Network, loss and optimiser."""
        total = self.data.plan(self.config.devices)[1]
        return OdenetModule(self.config.to_dict(), total)

    def finish(self, run: RunDirectory, rows: Rows) -> OdenetResult:
        """Test the best weights, and write figures and report."""
        model = self.module.model
        load_weights(model, run, "best")
        test = score(model.eval(), self.data.splits.test, VALIDATION_BATCH)
        result = OdenetResult(
            path=str(run.path),
            test_error=test.error,
            validation_error=min(row["validation_error"] for row in rows),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            nfe_forward=rows[-1].get("nfe_forward", 0.0),
            nfe_backward=rows[-1].get("nfe_backward", 0.0),
            seconds_per_epoch=statistics.median(row["seconds"] for row in rows),
            epochs=int(rows[-1]["epoch"]),
            steps=int(rows[-1]["step"]),
        )
        pictures = {"error per epoch": "error.png"}
        save_figure(plot_error(rows, self.config.title), run.path / "error.png")
        if model.ode is not None:
            pictures["field evaluations per epoch"] = "nfe.png"
            save_figure(plot_nfe(rows, self.config.title), run.path / "nfe.png")
        write_json(run.result_file, asdict(result))
        write_report(run, self.config, _describe(result, test.samples), pictures)
        return result


def _describe(result: OdenetResult, samples: int) -> dict[str, str]:
    described = {
        "test error": f"{result.test_error:.2f} % of {samples:,} images",
        "validation error (best)": f"{result.validation_error:.2f} %",
        "parameters": f"{result.parameters:,}",
    }
    if result.nfe_forward:
        described["field evaluations, forward / backward, last epoch"] = (
            f"{result.nfe_forward:.1f} / {result.nfe_backward:.1f} per iteration"
        )
    described["time per epoch (median)"] = f"{result.seconds_per_epoch:.2f} s"
    described["epochs, iterations"] = f"{result.epochs}, {result.steps:,}"
    return described
