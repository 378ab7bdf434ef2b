"""Image by image: training and evaluation of ODE-Nets whose images step at their own pace."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from isocline.train import ConfigError, EvaluateConfig
from isocline.train.history import read_metrics
from isocline.train.odenet.evaluate import evaluate_run
from isocline.train.odenet.per_input import evaluate_per_input
from isocline.train.odenet.run import train_odenet

from .conftest import tiny


def test_evaluation_image_by_image_writes_a_table_a_figure_and_a_report(run_copy: Path) -> None:
    options = EvaluateConfig(per_input=True, samples=50, batch_size=20)
    result = evaluate_per_input(run_copy, options)
    assert result.nfe.shape == result.steps.shape == (50,)
    assert int(result.nfe.min()) < int(result.nfe.max())
    assert float(result.nfe.double().mean()) <= result.joint
    with (run_copy / "per_input.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["nfe"]) for row in rows] == result.nfe.tolist()
    assert {int(row["label"]) for row in rows} <= set(range(10))
    with Image.open(run_copy / "per_input.png") as figure:
        assert min(figure.size) > 600
    report = (run_copy / "report.md").read_text()
    assert "![Evaluations per image](per_input.png)" in report


def test_evaluations_of_an_image_do_not_depend_on_its_batch(run_copy: Path) -> None:
    small, large = (
        evaluate_per_input(run_copy, EvaluateConfig(samples=30, batch_size=size))
        for size in (7, 30)
    )
    # Convolutions round otherwise in other batches: a step at the edge may be one more.
    assert (small.nfe - large.nfe).abs().double().mean() < 1.0


@pytest.mark.parametrize("adjoint", [None, "backsolve"])
def test_training_and_measuring_a_run_that_steps_per_sample(
    tmp_path: Path, adjoint: str | None
) -> None:
    train_odenet(tiny(tmp_path / "run", stepping="per_sample", epochs=1, adjoint=adjoint))
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert rows[-1]["nfe_forward"] > 0
    options = EvaluateConfig(tolerances="1e-1", samples=32, batch_size=32, repeats=1)
    (point,) = evaluate_run(tmp_path / "run", options)
    assert point.nfe_backsolve > 0
    assert evaluate_per_input(tmp_path / "run", EvaluateConfig(samples=10)).nfe.shape == (10,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "adams"}, "explicit solver such as tsit5, not adams"),
        ({"solver": "lsoda"}, "explicit solver such as tsit5, not lsoda"),
    ],
)
def test_settings_that_do_not_go_with_it(
    tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_odenet(tiny(tmp_path / "run", stepping="per_sample", **settings))


def test_runs_without_an_adaptive_solve(tmp_path: Path) -> None:
    train_odenet(tiny(tmp_path / "rknet", model="rknet", limit_steps=1))
    with pytest.raises(ConfigError, match="same evaluations"):
        evaluate_per_input(tmp_path / "rknet", EvaluateConfig())
