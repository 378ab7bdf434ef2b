"""Evaluation over tolerances: files, numbers, refusals."""

import csv
import shutil
from pathlib import Path

import pytest
from PIL import Image

from isocline.train import ConfigError, EvaluateConfig
from isocline.train.odenet.evaluate import EvaluationPoint, evaluate_run
from isocline.train.odenet.run import train_odenet

from .conftest import tiny

QUICK = {"repeats": 1, "samples": 64, "batch_size": 32}


def test_evaluation_writes_figure_table_and_report(run_copy: Path) -> None:
    seen: list[EvaluationPoint] = []
    options = EvaluateConfig(tolerances="1e-1..1e-3", **QUICK)
    points = evaluate_run(run_copy, options, seen.append)
    assert seen == points
    assert [point.tolerance for point in points] == [1e-1, 1e-2, 1e-3]
    evaluations = [point.nfe_forward for point in points]
    assert evaluations == sorted(evaluations)
    assert evaluations[-1] > evaluations[0]
    assert points[-1].numerical_error < 1e-2
    assert points[-1].numerical_error < points[0].numerical_error
    assert all(point.nfe_backsolve > 0 and point.seconds_training > 0 for point in points)
    with Image.open(run_copy / "figure3.png") as figure:
        assert min(figure.size) > 600
    with (run_copy / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["tolerance"]) for row in rows] == [1e-1, 1e-2, 1e-3]
    report = (run_copy / "report.md").read_text()
    assert "| 1e-03 |" in report
    assert report.index("## Settings") < report.index("## Evaluation")


def test_another_solver_and_adjoint(run_copy: Path) -> None:
    options = EvaluateConfig(
        tolerances="1e-2", solver="bosh3", adjoint="backsolve", checkpoint="last", **QUICK
    )
    (point,) = evaluate_run(run_copy, options)
    assert point.nfe_backward > 0
    assert "Solver bosh3, backsolve adjoint, `last` weights" in (run_copy / "report.md").read_text()


def test_a_solver_of_another_library_brings_its_adjoint(run_copy: Path) -> None:
    options = EvaluateConfig(tolerances="1e-2", solver="cvode_adams", **QUICK)
    (point,) = evaluate_run(run_copy, options)
    assert point.nfe_backward > 1
    assert "Solver cvode_adams, backsolve adjoint" in (run_copy / "report.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "lsoda", "adjoint": "direct"}, "goes with --adjoint backsolve, not direct"),
        ({"tolerances": "x"}, "no positive number"),
        ({"solver": "rk4"}, "--solver rk4 is not an adaptive solver"),
        ({"repeats": 0}, "--repeats is 0"),
    ],
)
def test_wrong_options(trained: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_run(trained, EvaluateConfig(**options))  # type: ignore[arg-type]


def test_runs_that_have_no_tolerance(tmp_path: Path) -> None:
    for model, message in (("resnet", "it has no ODE"), ("rknet", "--solver an adaptive one")):
        train_odenet(tiny(tmp_path / model, model=model, limit_steps=1))
        with pytest.raises(ConfigError, match=message):
            evaluate_run(tmp_path / model, EvaluateConfig())
    (point,) = evaluate_run(
        tmp_path / "rknet", EvaluateConfig(tolerances="1e-2", solver="tsit5", **QUICK)
    )
    assert point.nfe_forward > 0


def test_a_folder_without_a_run_or_weights(run_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        evaluate_run(tmp_path, EvaluateConfig())
    shutil.rmtree(run_copy / "checkpoints")
    with pytest.raises(ConfigError, match=r"best.ckpt does not exist"):
        evaluate_run(run_copy, EvaluateConfig())
