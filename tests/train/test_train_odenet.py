"""Training from end to end: files, resumption, models, precision, failures."""

import json
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch

from isocline.data import DataError
from isocline.train import ConfigError, OdenetConfig, TrainingError
from isocline.train.history import read_metrics
from isocline.train.odenet.run import WATCHED, train_odenet

from .conftest import tiny


class KilledError(Exception):
    pass


class Kill(L.Callback):
    """Ends the process, as far as a test can, after so many iterations."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise KilledError


class KillInValidation(L.Callback):
    def on_validation_start(self, *_: object) -> None:
        raise KilledError


def _weights(path: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["state_dict"]


def test_a_run_leaves_its_files(trained: Path) -> None:
    for name in ("config.json", "metrics.csv", "report.md", "result.json", "error.png", "nfe.png"):
        assert (trained / name).stat().st_size > 100, name
    assert list((trained / "tensorboard").glob("events*"))
    result = json.loads((trained / "result.json").read_text())
    assert (result["epochs"], result["steps"]) == (2, 8)
    rows = read_metrics(trained / "metrics.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(set(row) == set(WATCHED.columns.all) for row in rows)
    assert all(row["nfe_forward"] > 0 for row in rows)
    report = (trained / "report.md").read_text()
    assert f"| parameters | {result['parameters']:,} |" in report
    assert not [path for path in trained.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("solver", ["lsoda", "cvode_adams"])
def test_a_solver_of_another_library_trains(solver: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = train_odenet(tiny(out, solver=solver, epochs=1))
    assert result is not None
    assert result.nfe_backward > 1
    assert json.loads((out / "config.json").read_text())["adjoint"] == "backsolve"
    assert "backsolve" in (out / "report.md").read_text()


@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_load_without_running_code(trained: Path, name: str) -> None:
    path = trained / "checkpoints" / f"{name}.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    settings = checkpoint["hyper_parameters"]["settings"]
    assert OdenetConfig.from_dict(settings).channels == 8
    assert "optimizer_states" in checkpoint


def _check_same_metrics(one: Path, other: Path) -> None:
    before, after = (read_metrics(path / "metrics.csv") for path in (one, other))
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        for column in set(old) - {"seconds", "training_seconds"}:
            assert new[column] == pytest.approx(old[column], rel=1e-5), column


@pytest.mark.parametrize("step", [4, 6])
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    trained: Path, tmp_path: Path, step: int
) -> None:
    """After 4 of 8 iterations an epoch is over; after 6 one is half done."""
    out = tmp_path / "run"
    with pytest.raises(KilledError):
        train_odenet(tiny(out, checkpoint_every=2), Kill(step + 1))
    assert not (out / "report.md").exists()
    train_odenet(OdenetConfig(out=out, resume=True, progress=False))
    expected, found = _weights(trained), _weights(out)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)
    _check_same_metrics(trained, out)


def test_a_run_killed_while_it_validates_goes_on(trained: Path, tmp_path: Path) -> None:
    """The last checkpoint is that of the epoch's last iteration, and its row is still to come."""
    out = tmp_path / "run"
    with pytest.raises(KilledError):
        train_odenet(tiny(out, checkpoint_every=2), KillInValidation())
    assert not read_metrics(out / "metrics.csv")
    result = train_odenet(OdenetConfig(out=out, resume=True, progress=False))
    assert result is not None
    assert (result.epochs, result.steps) == (2, 8)
    _check_same_metrics(trained, out)


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KilledError):
        train_odenet(tiny(out), Kill(1))
    result = train_odenet(OdenetConfig(out=out, resume=True, limit_steps=None, progress=False))
    assert result is not None
    assert result.steps == 8


def test_a_finished_run_resumes_to_itself(run_copy: Path) -> None:
    before = json.loads((run_copy / "result.json").read_text())
    result = train_odenet(OdenetConfig(out=run_copy, resume=True, progress=False))
    assert result is not None
    assert (result.steps, result.test_error) == (8, before["test_error"])


def test_a_damaged_checkpoint_is_named(run_copy: Path) -> None:
    path = run_copy / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"last.ckpt cannot be read"):
        train_odenet(OdenetConfig(out=run_copy, resume=True, progress=False))


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "rknet", "rk_steps": 2},
        {"model": "resnet"},
        {"adjoint": "direct", "precision": "bf16-mixed"},
        {"adjoint": "backsolve", "solver": "dopri5"},
        {"adjoint": "checkpointed", "slots": 1, "progress": True, "optimizer": "sgd"},
    ],
)
def test_models_adjoints_and_precisions(tmp_path: Path, settings: dict[str, object]) -> None:
    # Three iterations: the second epoch has one.
    result = train_odenet(tiny(tmp_path, limit_train=64, limit_steps=3, **settings))
    assert result is not None
    assert (result.steps, result.epochs) == (3, 2)
    assert (result.nfe_forward > 0) is (settings.get("model") != "resnet")


def test_the_bar_fits_a_narrow_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    train_odenet(tiny(tmp_path / "run", limit_steps=2, progress=True))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("Epoch 0/0")
    for label in ("loss: ", "error: ", "NFE: "):
        assert lines[0].count(label) == 1


def test_learns_something(tmp_path: Path) -> None:
    settings = {"channels": 16, "limit_train": None, "epochs": 4}
    result = train_odenet(tiny(tmp_path, model="rknet", rk_steps=1, **settings))
    assert result is not None
    assert result.test_error < 70  # chance is 90


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss became .* lower --lr"):
        train_odenet(tiny(tmp_path, model="resnet", lr=1e30, schedule="steps"))


def test_too_few_samples_for_a_batch(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not fill one batch of 64"):
        train_odenet(tiny(tmp_path, limit_train=10, batch_size=64))


def test_what_the_machine_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="16-mixed needs a CUDA device"):
        train_odenet(tiny(tmp_path, precision="16-mixed"))
    with pytest.raises(ConfigError, match="torch finds no GPU"):
        train_odenet(tiny(tmp_path, accelerator="gpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="torchrun started 3 processes"):
        train_odenet(tiny(tmp_path))


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Each of two processes takes half of every batch: the same run as one process of the whole."""
    common = [
        *("train", "odenet", "--epochs=1", "--limit-train=128", "--channels=8", "--no-progress"),
        *("--threads=1", "--accelerator=cpu", "--optimizer=sgd"),
        # What differs between the two by right: shifts, and the steps that a batch takes together.
        *("--no-augment", "--model=rknet", "--adjoint=checkpointed"),
    ]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    two = [*launch, "-m", "isocline.cli", *common, "--batch-size=16"]
    one = [sys.executable, "-m", "isocline.cli", *common, "--batch-size=32"]
    ddp = ["--devices=2", "--strategy=ddp"]
    for command in ([*one, f"--out={tmp_path / 'one'}"], [*two, *ddp, f"--out={tmp_path / 'two'}"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for name, value in _weights(tmp_path / "one").items():
        torch.testing.assert_close(
            _weights(tmp_path / "two")[name], value, rtol=1e-4, atol=1e-5, msg=name
        )
