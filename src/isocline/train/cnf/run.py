"""Train a continuous normalizing flow."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from functools import cached_property

import lightning as L

from ..checkpoint import load_weights
from ..files import write_json
from ..history import Rows, seconds_per_iteration
from ..report import Mean, write_report
from ..run import train
from ..rundir import RunDirectory
from ..trainer import Watched
from .config import CnfConfig
from .data import CnfData
from .measure import mean_of, score
from .module import CnfModule, weights_prefix
from .objectives import WATCHED
from .pictures import draw_pictures
from .sources import TEST, make_source
from .trained import TrainedFlow

__all__ = ["CnfResult", "CnfTask", "train_cnf"]


@dataclass(frozen=True)
class CnfResult:
    """What a run came to. Scores are in nats per point, on held-out points that nothing chose.

    Attributes:
        path: The run's folder.
        objective: What it was trained for.
        test_log_likelihood: Mean log density of the test points, in the data's units; ``None``
            where there are no data.
        test_kl: ``KL(q || p)`` of the flow from its target, estimated by samples of the flow;
            ``None`` where there are data.
        standard_error: Of the one of these two that is there.
        test_points: Number of points behind it.
        log_scale: What to add to the log-likelihood to have it in standardised units; 0 where the
            data are taken as they are.
        true_log_likelihood: Mean of the true log density of the same points, where it is known.
        gap: True less trained log density, mean over the same points: an estimate of
            ``KL(p || q)``.
        gap_error: Its standard error, which is smaller than those of the scores: they share their
            points.
        validation: The best score on the validation points (in the units of training).
        parameters: Number of parameters.
        nfe_forward: Mean evaluations per forward pass in the last epoch; 0 for flow matching.
        nfe_backward: Mean evaluations per backward pass in the last epoch.
        nfe_test: Mean evaluations in a solve of test points.
        seconds_per_iteration: Median over the epochs, without the measurements between.
        seconds_training: Sum over all iterations.
        iterations: Iterations trained.
    """

    path: str
    objective: str
    test_log_likelihood: float | None
    test_kl: float | None
    standard_error: float
    test_points: int
    log_scale: float
    true_log_likelihood: float | None
    gap: float | None
    gap_error: float | None
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
        points = f"{self.test_points:,} points"
        rows: dict[str, str] = {}
        if self.test_log_likelihood is not None:
            score = Mean(self.test_log_likelihood, self.standard_error)
            rows["test log-likelihood"] = f"{score} ({points})"
        if self.log_scale and self.test_log_likelihood is not None:
            standardised = Mean(self.test_log_likelihood + self.log_scale, self.standard_error)
            rows["the same, standardised units"] = str(standardised)
        if self.test_kl is not None:
            score = Mean(self.test_kl, self.standard_error)
            rows["KL of the flow from its target"] = f"{score} ({points})"
        if self.true_log_likelihood is not None:
            rows["true density, same points"] = f"{self.true_log_likelihood:.4f} nats"
        if self.gap is not None and self.gap_error is not None:
            rows["true less trained"] = str(Mean(self.gap, self.gap_error))
        rows["best in validation"] = f"{self.validation:.4f} nats"
        rows["parameters"] = f"{self.parameters:,}"
        if self.nfe_forward:
            rows["NFE forward / backward"] = f"{self.nfe_forward:.1f} / {self.nfe_backward:.1f}"
        rows["NFE on test points"] = f"{self.nfe_test:.1f}"
        rows["time per iteration"] = f"{1e3 * self.seconds_per_iteration:.2f} ms"
        rows["iterations, training time"] = f"{self.iterations:,}, {self.seconds_training:.1f} s"
        return rows


def train_cnf(config: CnfConfig, *callbacks: L.Callback) -> CnfResult | None:
    """Train a flow, or go on training it: `run.train` with a `CnfTask`."""
    return train(config, CnfTask, *callbacks)


class CnfTask:
    """A flow and what it is trained for, as a task of the driver.

    Args:
        config: Resolved settings.

    Raises:
        DataError: If the data cannot be read or learnt from.
    """

    def __init__(self, config: CnfConfig) -> None:
        self.config = config
        self.source = make_source(config)
        self.data = CnfData(config, self.source)

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return self.data.epochs

    @property
    def watched(self) -> Watched:
        """What the objective has to show."""
        return WATCHED[self.config.objective]

    @cached_property
    def module(self) -> CnfModule:
        """Flow, loss and optimiser."""
        return CnfModule(self.config.to_dict(), self.source.space.to_dict())

    def finish(self, run: RunDirectory, rows: Rows) -> CnfResult:
        """Score the best weights on test points, and draw and write it all down."""
        module, config = self.module, self.config
        flow = module.measured
        load_weights(flow, run, "best", weights_prefix(config))
        result = self._result(run, rows)
        pictures = {}
        if config.pictures:
            trained = TrainedFlow(flow.cpu(), self.source.space)
            pictures = draw_pictures(run, config, trained, self.source, rows)
        write_json(run.result_file, asdict(result))
        write_report(run, config, result.summary(), pictures)
        return result

    def _result(self, run: RunDirectory, rows: Rows) -> CnfResult:
        module, source = self.module, self.source
        metric = module.objective.metric
        scores, evaluations = score(
            module.objective, module.measured, source.test, self.config.seed, TEST
        )
        log_scale = source.space.log_scale
        mean = mean_of(scores)
        likelihood = metric == "log_likelihood"
        truth = gap = None
        if source.log_density is not None:
            true = source.log_density(source.test)
            truth, gap = mean_of(true), mean_of(true - scores)
        best = max if likelihood else min
        return CnfResult(
            path=str(run.path),
            objective=self.config.objective,
            test_log_likelihood=mean.value - log_scale if likelihood else None,
            test_kl=None if likelihood else mean.value,
            standard_error=mean.error,
            test_points=len(scores),
            log_scale=log_scale,
            true_log_likelihood=None if truth is None else truth.value,
            gap=None if gap is None else gap.value,
            gap_error=None if gap is None else gap.error,
            validation=best(row[f"validation_{metric}"] for row in rows),
            parameters=sum(parameter.numel() for parameter in module.flow.parameters()),
            nfe_forward=rows[-1].get("nfe_forward", 0.0),
            nfe_backward=rows[-1].get("nfe_backward", 0.0),
            nfe_test=statistics.fmean(evaluations),
            seconds_per_iteration=seconds_per_iteration(rows),
            seconds_training=sum(row["training_seconds"] for row in rows),
            iterations=int(rows[-1]["step"]),
        )
