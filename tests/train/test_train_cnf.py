"""Training flows from end to end: files, resumption bit for bit, objectives, failures."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning as L
import pytest
import torch

from isocline.data import TOY2D, DataError
from isocline.train import CnfConfig, ConfigError, OdenetConfig, TrainingError
from isocline.train.cnf.objectives import WATCHED
from isocline.train.cnf.run import train_cnf
from isocline.train.history import read_metrics
from isocline.train.odenet.run import train_odenet

from .cnf_runs import checkpoint, tiny_flow, write_points


class KilledError(Exception):
    pass


class Kill(L.Callback):
    """Ends the process, as far as a test can, after so many iterations."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise KilledError


def assert_same(one: object, other: object, where: str = "") -> None:
    """Bit for bit."""
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor), where
        assert torch.equal(one, other), where
    elif isinstance(one, Mapping):
        assert isinstance(other, Mapping), where
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, Sequence) and not isinstance(one, str):
        assert isinstance(other, Sequence), where
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert one == other, where


def metrics_without_times(path: Path) -> list[dict[str, float]]:
    rows = read_metrics(path / "metrics.csv")
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


def test_a_run_leaves_its_files(tmp_path: Path) -> None:
    result = train_cnf(tiny_flow(tmp_path))
    assert result is not None
    for name in ("config.json", "metrics.csv", "report.md", "result.json"):
        assert (tmp_path / name).stat().st_size > 100, name
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert json.loads((tmp_path / "config.json").read_text())["kind"] == "cnf"
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == [4, 8]
    assert all(set(row) == set(WATCHED["likelihood"].columns.all) for row in rows)
    assert rows[0]["train_loss"] == pytest.approx(-rows[0]["train_log_likelihood"])
    assert all(0 < row["training_seconds"] <= row["seconds"] for row in rows)
    assert result.iterations == 8
    assert result.test_points == 60
    assert result.nfe_forward > 0
    assert "| test log-likelihood | -" in (tmp_path / "report.md").read_text()
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_the_result_sets_the_true_density_beside_the_flow(tmp_path: Path) -> None:
    result = train_cnf(tiny_flow(tmp_path, data="8gaussians", test_size=2000))
    assert result is not None
    assert result.true_log_likelihood is not None
    assert result.test_log_likelihood is not None
    assert result.gap is not None
    assert result.true_log_likelihood == pytest.approx(-TOY2D["8gaussians"].entropy, abs=0.1)
    assert result.gap == pytest.approx(
        result.true_log_likelihood - result.test_log_likelihood, abs=1e-5
    )
    assert result.gap > 0


RUNS: dict[str, dict[str, object]] = {
    "noise of the divergence, and averaged weights": {
        "field": "ffjord",
        "divergence": "hutchinson",
        "kinetic": 0.1,
        "jacobian": 0.1,
        "ema": 0.5,
    },
    "draws of flow matching": {"objective": "flow-matching", "coupling": "optimal-transport"},
    "draws of the flow": {"objective": "density", "target": "u3"},
    "order and noise of a table": {"data": "wine", "noise": 0.1, "weight_decay": 0.1},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    """The checkpoint is of the seventh of eight iterations, in the middle of the second epoch."""
    settings = RUNS[name]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = train_cnf(tiny_flow(whole, **settings))
    with pytest.raises(KilledError):
        train_cnf(tiny_flow(killed, checkpoint_every=7, **settings), Kill(8))
    assert not (killed / "report.md").exists()
    assert checkpoint(killed)["global_step"] == 7
    found = train_cnf(CnfConfig(out=killed, resume=True, progress=False))
    assert found is not None
    assert expected is not None
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        for kept in ("last", "best"):
            assert_same(checkpoint(whole, kept)[part], checkpoint(killed, kept)[part], part)
    assert metrics_without_times(whole) == metrics_without_times(killed)
    assert (found.test_log_likelihood, found.test_kl, found.gap) == (
        expected.test_log_likelihood,
        expected.test_kl,
        expected.gap,
    )


def test_a_finished_run_resumes_to_itself(tmp_path: Path) -> None:
    before = train_cnf(tiny_flow(tmp_path, ema=0.5))
    after = train_cnf(CnfConfig(out=tmp_path, resume=True, progress=False))
    assert after == before


def test_the_averaged_weights_are_measured(tmp_path: Path) -> None:
    """Without the average, the weights after the last iteration are others."""
    result = train_cnf(tiny_flow(tmp_path, ema=0.9, lr=0.05, schedule="constant"))
    plain = train_cnf(tiny_flow(tmp_path / "plain", lr=0.05, schedule="constant"))
    assert result is not None
    assert plain is not None
    state = checkpoint(tmp_path)["state_dict"]
    plain_state = checkpoint(tmp_path / "plain")["state_dict"]
    assert isinstance(state, dict)
    assert isinstance(plain_state, dict)
    averaged = {k.removeprefix("average.module."): v for k, v in state.items() if "average." in k}
    for name, value in plain_state.items():
        short = name.removeprefix("flow.")
        assert torch.equal(state[name], value), name
        assert not torch.equal(averaged[short], value), name
    assert result.parameters == plain.parameters
    assert result.validation != plain.validation


@pytest.mark.parametrize(
    "settings",
    [
        {"field": "ffjord", "data": "two-circles", "adjoint": "backsolve"},
        {"field": "ffjord", "data": "pinwheel", "divergence": "hutch++", "solver": "dopri5"},
        {"data": "checkerboard", "divergence": "exact", "jacobian": 0.1, "norm": "max_rms"},
        {"precision": "bf16-mixed", "slots": 1, "progress": True},
        {"data": "breast-cancer", "field": "ffjord"},
        {"objective": "flow-matching", "field": "ffjord", "ema": 0.9},
        {"iterations": 5},
    ],
)
def test_fields_divergences_and_precisions(tmp_path: Path, settings: dict[str, object]) -> None:
    result = train_cnf(tiny_flow(tmp_path, **settings))
    assert result is not None
    assert result.iterations == settings.get("iterations", 8)
    assert result.test_log_likelihood is not None
    assert math.isfinite(result.test_log_likelihood)
    assert (result.nfe_forward == 0) is (settings.get("objective") == "flow-matching")


def test_density_matching_reports_a_divergence(tmp_path: Path) -> None:
    result = train_cnf(tiny_flow(tmp_path, objective="density", test_size=500))
    assert result is not None
    assert result.test_log_likelihood is None
    assert result.test_kl is not None
    # The base has no crescents: far from the target, and above zero by many standard errors.
    assert result.test_kl > 10 * result.standard_error
    assert [*read_metrics(tmp_path / "metrics.csv")[0]] == [*WATCHED["density"].columns.all]
    assert "KL of the flow from its target" in (tmp_path / "report.md").read_text()


def test_learns_something(tmp_path: Path) -> None:
    settings = {"iterations": 60, "eval_every": 60, "batch_size": 128, "hidden": 32, "t1": 2.0}
    result = train_cnf(tiny_flow(tmp_path, units=16, lr=3e-2, **settings))
    assert result is not None
    assert result.test_log_likelihood is not None
    assert result.test_log_likelihood > -2.5  # that of the base is -2.8


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_long_gradients_are_clipped(tmp_path: Path, clip: float) -> None:
    lengths = []

    class Measure(L.Callback):
        """What an iteration stepped along is there until the next one makes room."""

        def on_before_zero_grad(
            self, trainer: L.Trainer, module: L.LightningModule, *_: object
        ) -> None:
            gradients = [p.grad.norm() for p in module.parameters() if p.grad is not None]
            if gradients:
                lengths.append(float(torch.stack(gradients).norm()))

    train_cnf(tiny_flow(tmp_path / "run", clip=clip), Measure())
    assert lengths
    if clip < 1:
        assert all(length == pytest.approx(clip, rel=1e-3) for length in lengths)
    else:
        assert min(lengths) > 1e-2


def test_a_file_is_learnt_in_its_own_units(tmp_path: Path) -> None:
    data = write_points(tmp_path / "points.csv", n=400)
    settings = {"iterations": 40, "eval_every": 40, "batch_size": 400, "lr": 3e-2}
    result = train_cnf(tiny_flow(tmp_path / "run", data=str(data), **settings))
    assert result is not None
    assert result.test_log_likelihood is not None
    # Nats of the normal that the points are from: log(2 pi e) + log |det|.
    entropy = math.log(2 * math.pi * math.e) + math.log(3.0 * 0.5)
    assert result.test_log_likelihood == pytest.approx(-entropy, abs=0.3)
    assert result.test_points == 40


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n" + "1,nan\n" * 20, "NaN or infinite"),
        ("", "empty"),
        ("a,b\n" + "1,2\n" * 20, "do not vary"),
        ("a,b\n1,2\n3,4\n", "at least 10"),
    ],
)
def test_a_bad_file_leaves_no_folder(tmp_path: Path, content: str, message: str) -> None:
    data = tmp_path / "points.csv"
    data.write_text(content)
    with pytest.raises(DataError, match=message):
        train_cnf(tiny_flow(tmp_path / "run", data=str(data)))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss became .* lower --lr"):
        train_cnf(tiny_flow(tmp_path, objective="flow-matching", lr=1e30, schedule="constant"))


def test_kinds_of_runs_are_told_apart(tmp_path: Path) -> None:
    train_cnf(tiny_flow(tmp_path, iterations=1))
    with pytest.raises(ConfigError, match="is a run of the kind cnf, not odenet"):
        train_odenet(OdenetConfig(out=tmp_path, resume=True, progress=False))
