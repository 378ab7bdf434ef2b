"""Measure a trained ODE-Net over tolerances: Figure 3 of the paper."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ...atomic import atomic_path
from ...data import ImageSet
from ...nn import ImageClassifier
from ...plots import plot_figure3, save_figure
from ...solvers import BLACK_BOXES
from ..adjoint import make_adjoint
from ..checkpoint import load_weights
from ..config import check_at_least_one, check_solver, check_solver_by_samples
from ..errors import ConfigError
from ..history import read_metrics
from ..report import markdown_table, write_evaluation
from ..rundir import RunDirectory
from .config import EvaluateConfig, OdenetConfig, check_adjoint
from .data import load_splits
from .measure import (
    measure_backsolve,
    measure_cost,
    measure_numerical_error,
    reference_state,
    score,
)
from .module import build_model
from .tolerances import parse_tolerances

__all__ = ["EvaluationPoint", "evaluate_run"]

# The reference solve runs in float64, and this much below the tightest tolerance: it is slow, and
# some images are enough for it.
REFERENCE_SAMPLES = 32
REFERENCE_MARGIN = 1e-2


@dataclass(frozen=True)
class EvaluationPoint:
    """One row of the evaluation: a tolerance, and what the network does at it.

    Errors of classification are in per cent, the numerical error is relative, times are seconds per
    batch. `nfe_backward` is of the adjoint measured, which makes no evaluations where it kept the
    graphs of the steps; `nfe_backsolve` is of the paper's adjoint, which solves backwards.
    """

    tolerance: float
    test_error: float
    numerical_error: float
    nfe_forward: float
    nfe_backward: float
    nfe_backsolve: float
    seconds_forward: float
    seconds_training: float


def evaluate_run(
    path: Path,
    options: EvaluateConfig,
    on_point: Callable[[EvaluationPoint], None] | None = None,
) -> list[EvaluationPoint]:
    """Evaluate the run in the folder `path` at each tolerance, and add the results to it.

    Writes ``evaluation.csv`` and ``figure3.png``, and puts both into ``report.md``.

    Args:
        path: Folder of a run of `train_odenet`.
        options: What to measure.
        on_point: Called with each row as soon as it is there.

    Raises:
        ConfigError: If there is no such run, it has no ODE, or an option is wrong.
        DataError: If the data cannot be read.
    """
    tolerances = parse_tolerances(options.tolerances)
    run = RunDirectory(path)
    config = run.read_config(OdenetConfig)
    options = _with_adjoint(options, config)
    model = _load_model(run, config, options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.data_dir is not None:
        config = replace(config, data_dir=options.data_dir)
    test = load_splits(config).test.first(options.samples)
    sample = test.first(min(REFERENCE_SAMPLES, options.batch_size)).images
    reference = reference_state(model, sample, REFERENCE_MARGIN * min(tolerances))
    points = []
    for tolerance in tolerances:
        points.append(_measure(model, tolerance, test, sample, reference, options))
        if on_point is not None:
            on_point(points[-1])
    _write(run, points, options, config, len(test))
    return points


def _with_adjoint(options: EvaluateConfig, config: OdenetConfig) -> EvaluateConfig:
    """The options with the adjoint that a solver of another library needs."""
    solver = options.solver or config.solver
    if solver not in BLACK_BOXES:
        return options
    chosen = replace(options, adjoint=options.adjoint or "backsolve")
    check_adjoint(solver, chosen.adjoint)
    return chosen


def _load_model(
    run: RunDirectory, config: OdenetConfig, options: EvaluateConfig
) -> ImageClassifier:
    """Build the run's network with its weights, and set solver and adjoint."""
    check_at_least_one(options, "samples", "batch_size", "repeats", "threads")
    if config.model == "resnet":
        raise ConfigError(f"{run.path} is a resnet: it has no ODE, and no tolerance to vary")
    if config.model == "rknet" and options.solver is None:
        raise ConfigError(
            f"{run.path} is an rknet, whose solver has no tolerance; give --solver an adaptive "
            "one, such as tsit5"
        )
    model = build_model(config)
    load_weights(model, run, options.checkpoint)
    ode = model.eval().ode
    assert ode is not None
    if options.solver is not None:
        check_solver(options.solver, adaptive=True, black_boxes=True)
        ode.solver, ode.dt0 = options.solver, None
    if options.adjoint is not None:
        ode.adjoint = make_adjoint(options.adjoint)
    check_solver_by_samples(config.stepping, str(options.solver or config.solver))
    return model


def _measure(
    model: ImageClassifier,
    tolerance: float,
    test: ImageSet,
    sample: torch.Tensor,
    reference: torch.Tensor,
    options: EvaluateConfig,
) -> EvaluationPoint:
    assert model.ode is not None
    model.ode.rtol = model.ode.atol = tolerance
    result = score(model, test, options.batch_size)
    batch = test.first(options.batch_size)
    cost = measure_cost(model, batch, options.repeats)
    return EvaluationPoint(
        tolerance=tolerance,
        test_error=result.error,
        numerical_error=measure_numerical_error(model, sample, reference),
        nfe_forward=cost.nfe_forward,
        nfe_backward=cost.nfe_backward,
        nfe_backsolve=measure_backsolve(model, batch),
        seconds_forward=cost.seconds_forward,
        seconds_training=cost.seconds_training,
    )


def _write(
    run: RunDirectory,
    points: list[EvaluationPoint],
    options: EvaluateConfig,
    config: OdenetConfig,
    samples: int,
) -> None:
    rows = [asdict(point) for point in points]
    target = run.path / "evaluation.csv"
    with atomic_path(target) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    solver = options.solver or config.solver
    adjoint = options.adjoint or config.adjoint
    figure = plot_figure3(
        rows,
        read_metrics(run.metrics_file),
        f"{config.model} on {config.data}, {solver}, {adjoint} adjoint",
    )
    save_figure(figure, run.path / "figure3.png")
    header = [
        "tolerance",
        "test error (%)",
        "numerical error",
        "NFE forward",
        "NFE backward",
        "NFE backsolve",
        "forward (ms)",
        "training (ms)",
    ]
    table = markdown_table(
        header,
        (
            (
                f"{point.tolerance:.0e}",
                f"{point.test_error:.2f}",
                f"{point.numerical_error:.1e}",
                f"{point.nfe_forward:g}",
                f"{point.nfe_backward:g}",
                f"{point.nfe_backsolve:g}",
                f"{1e3 * point.seconds_forward:.1f}",
                f"{1e3 * point.seconds_training:.1f}",
            )
            for point in points
        ),
    )
    write_evaluation(
        run,
        f"Solver {solver}, {adjoint} adjoint, `{options.checkpoint}` weights; {samples:,} test "
        f"images, times and evaluations per batch of {min(options.batch_size, samples)}.\n\n"
        f"{table}\n\n![Figure 3](figure3.png)",
    )
