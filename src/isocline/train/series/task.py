"""What runs on time series share: the beginning of a task, and what every result tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from torch import nn

from ...data import Reading
from ..config import RunConfig
from ..files import write_json
from ..history import Rows, seconds_per_iteration
from ..report import write_report
from ..run import first_process
from ..rundir import RunDirectory
from .batches import SeriesData
from .parts import Source

__all__ = ["Announce", "SeriesResult", "SeriesTask", "costs"]

C = TypeVar("C", bound=RunConfig)

Announce = Callable[[Reading], None]
"""Is told, before the training, what came of reading a file."""


@dataclass(frozen=True)
class SeriesResult:
    """What every run on time series came to.

    Attributes:
        path: The run's folder.
        model: Which model.
        series: Numbers of series to train, validate and test.
        validation: The best loss in validation.
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
    validation: float
    parameters: int
    nfe_forward: float
    nfe_backward: float
    nfe_test: float
    seconds_per_iteration: float
    seconds_training: float
    iterations: int

    def costs(self) -> dict[str, str]:
        """The last rows of a summary: names and values for people."""
        rows = {"best loss in validation": f"{self.validation:.4f}"}
        rows["parameters"] = f"{self.parameters:,}"
        if self.nfe_forward:
            rows["NFE forward / backward"] = f"{self.nfe_forward:.1f} / {self.nfe_backward:.1f}"
            rows["NFE on test series"] = f"{self.nfe_test:.1f}"
        rows["time per iteration"] = f"{1e3 * self.seconds_per_iteration:.2f} ms"
        rows["iterations, training time"] = f"{self.iterations:,}, {self.seconds_training:.1f} s"
        return rows


def costs(
    run: RunDirectory, model: str, source: Source, network: nn.Module, rows: Rows, nfe: float
) -> dict[str, Any]:
    """The fields of a `SeriesResult`."""
    return {
        "path": str(run.path),
        "model": model,
        "series": source.sizes,
        "validation": min(row["validation_loss"] for row in rows),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "nfe_forward": rows[-1].get("nfe_forward", 0.0),
        "nfe_backward": rows[-1].get("nfe_backward", 0.0),
        "nfe_test": nfe,
        "seconds_per_iteration": seconds_per_iteration(rows),
        "seconds_training": sum(row["training_seconds"] for row in rows),
        "iterations": int(rows[-1]["step"]),
    }


class SeriesTask(Generic[C]):
    """The part of a `Task` that does not depend on the model.

    A subclass sets `data`.

    Args:
        config: Resolved settings.
        source: The series.
        announce: See `Announce`.
    """

    data: SeriesData

    def __init__(self, config: C, source: Source, announce: Announce | None) -> None:
        self.config = config
        self.source = source
        if announce is not None and source.reading is not None and first_process():
            announce(source.reading)

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return self.data.epochs

    def write(
        self,
        run: RunDirectory,
        result: SeriesResult,
        summary: dict[str, str],
        pictures: dict[str, str],
        tables: Mapping[str, dict[str, str]] | None = None,
    ) -> None:
        """Write the result and the report, with what came of reading the data."""
        write_json(run.result_file, asdict(result))
        data = {} if self.source.reading is None else self.source.reading.summary()
        write_report(run, self.config, summary, pictures, {"Data": data, **(tables or {})})
