"""Latent ODEs and neural CDEs from end to end: files, resumption bit for bit, data, failures."""

import json
import math
from pathlib import Path

import lightning as L
import pytest
import torch
from PIL import Image

from isocline.data import DataError, Reading
from isocline.plots import plot_traversal
from isocline.train import ConfigError, LatentOdeConfig, NeuralCdeConfig, TrainingError
from isocline.train.history import read_metrics
from isocline.train.latent_ode.run import LatentOdeResult, train_latent_ode
from isocline.train.neural_cde.run import NeuralCdeResult, train_neural_cde

from .cnf_runs import checkpoint
from .series_runs import tiny_cde, tiny_latent, write_long
from .test_train_cnf import Kill, KilledError, assert_same, metrics_without_times


def latent(config: LatentOdeConfig, *callbacks: L.Callback) -> LatentOdeResult:
    result = train_latent_ode(config, *callbacks)
    assert result is not None
    return result


def cde(config: NeuralCdeConfig, *callbacks: L.Callback) -> NeuralCdeResult:
    result = train_neural_cde(config, *callbacks)
    assert result is not None
    return result


def test_a_run_on_spirals_leaves_its_files(tmp_path: Path) -> None:
    result = latent(tiny_latent(tmp_path))
    for name in ("config.json", "metrics.csv", "report.md", "result.json"):
        assert (tmp_path / name).stat().st_size > 100, name
    assert json.loads((tmp_path / "config.json").read_text())["kind"] == "latent-ode"
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == [2, 4]
    for name in ("train_elbo", "validation_loss", "validation_rmse", "validation_nfe"):
        assert all(math.isfinite(row[name]) for row in rows), name
    assert set(result.truth_rmse) == {"inside", "10", "25", "50", "100"}
    assert result.series == (24, 8, 10)
    assert result.nfe_forward > 0
    assert result.rmse is not None
    assert not result.hidden
    assert "RMSE to the truth, over 100 points beyond" in (tmp_path / "report.md").read_text()
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("adjoint", ["checkpointed", "direct", "backsolve"])
def test_a_run_that_chooses_its_stepping(tmp_path: Path, adjoint: str) -> None:
    """It takes turns at first, says so, and comes to what the other ways come to."""
    settings = {"observed": 8, "tol": 1e-5, "norm": "max_rms", "adjoint": adjoint}
    found = latent(tiny_latent(tmp_path / "auto", stepping="auto", **settings))
    rows = read_metrics(tmp_path / "auto" / "metrics.csv")
    assert [row["per_sample"] for row in rows] == [0.5, 0.5]
    for stepping in ("joint", "per_sample"):
        other = latent(tiny_latent(tmp_path / stepping, stepping=stepping, **settings))
        assert other.test_elbo == pytest.approx(found.test_elbo, rel=2e-3)
        assert "per_sample" not in read_metrics(tmp_path / stepping / "metrics.csv")[0]


RUNS: dict[str, dict[str, object]] = {
    "noise of the latent state": {"observed": 20, "samples": 2},
    "windows": {"windows": 0.5, "kl_warmup": 3},
    "hidden values and dropout": {
        "data": "stays", "hide": 0.3, "label_weight": 1.0, "dropout": 0.5, "keep": "last",
    },
    "events": {"data": "events"},
    "each series at its own pace": {"observed": 20, "stepping": "per_sample"},
    "a forecaster": {"data": "stays", "model": "gru-d", "hide": 0.3},
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    """The checkpoint is of the third of four iterations, in the middle of the second epoch."""
    settings = RUNS[name]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = latent(tiny_latent(whole, **settings))
    with pytest.raises(KilledError):
        latent(tiny_latent(killed, checkpoint_every=3, **settings), Kill(4))
    assert not (killed / "report.md").exists()
    assert checkpoint(killed)["global_step"] == 3
    found = latent(LatentOdeConfig(out=killed, resume=True, progress=False))
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        for kept in ("last", "best"):
            assert_same(checkpoint(whole, kept)[part], checkpoint(killed, kept)[part], part)
    assert metrics_without_times(whole) == metrics_without_times(killed)
    assert (found.test_elbo, found.rmse, found.auc) == (
        expected.test_elbo,
        expected.rmse,
        expected.auc,
    )


def test_a_killed_classifier_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = cde(tiny_cde(whole, observed=20))
    with pytest.raises(KilledError):
        cde(tiny_cde(killed, observed=20, checkpoint_every=3), Kill(4))
    found = cde(NeuralCdeConfig(out=killed, resume=True, progress=False))
    for kept in ("last", "best"):
        assert_same(checkpoint(whole, kept)["state_dict"], checkpoint(killed, kept)["state_dict"])
    assert metrics_without_times(whole) == metrics_without_times(killed)
    assert found.cross_entropy == expected.cross_entropy


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "rnn"},
        {"model": "rnn-dt"},
        {"model": "ode-rnn", "observed": 10},
        {"encoder": "ode-rnn", "observed": 10, "field": "mlp", "decoder": "mlp"},
        {"encoder": "gru-d", "observed": 10, "norm": "max_rms", "learn_std": False},
        {"data": "stays", "events": True, "hide": 0.0, "label_weight": 0.0},
        {"data": "signals", "head_width": 4},
        {"precision": "bf16-mixed", "adjoint": "backsolve", "progress": True},
        {"data": "events", "intensity": "decaying", "span": 2.0, "field": "semilinear"},
    ],
)
def test_models_and_data(tmp_path: Path, settings: dict[str, object]) -> None:
    result = latent(tiny_latent(tmp_path, **settings))
    assert math.isfinite(result.test_elbo)
    assert result.iterations == 4
    assert (result.nfe_forward > 0) is (settings.get("model") not in ("rnn", "rnn-dt"))


@pytest.mark.parametrize(
    "settings",
    [
        {"data": "signals", "path_kind": "natural-cubic", "counts": True},
        {"data": "stays", "dropped": 0.5, "row_steps": 0, "norm": "max_rms"},
        {"data": "stays", "model": "gru-d"},
        {"model": "rnn", "observed": 30},
    ],
)
def test_classifiers(tmp_path: Path, settings: dict[str, object]) -> None:
    result = cde(tiny_cde(tmp_path, **settings))
    assert 0 <= result.accuracy <= 1
    assert sum(map(sum, result.confusion)) == result.series[2]
    assert "test accuracy" in (tmp_path / "report.md").read_text()


def test_a_file_is_learnt_in_its_own_units(tmp_path: Path) -> None:
    data = write_long(tmp_path / "data", number=40)
    told: list[Reading] = []
    with (data / "series.csv").open("a") as file:
        file.write("p0,1.0,pressure,high\np1,,heat,3\n")
    settings = {"iterations": 60, "eval_every": 30, "batch_size": 28, "lr": 2e-2, "hide": 0.2}
    config = tiny_latent(tmp_path / "run", data=str(data), **settings)
    result = train_latent_ode(config, announce=told.append)
    assert result is not None
    assert len(told) == 1
    assert told[0].rows - told[0].kept == 2
    report = (tmp_path / "run" / "report.md").read_text()
    assert "## Data" in report
    assert "high" in report
    assert result.hidden
    assert set(result.rmse_by_feature) == {"heat", "pressure"}
    # In units of the data, where the one varies by 20 and the other by 1.
    assert 3 < result.rmse_by_feature["pressure"] < 25
    assert 0.1 < result.rmse_by_feature["heat"] < 1.5
    assert result.auc is not None


def test_learns_the_direction_of_spirals(tmp_path: Path) -> None:
    settings = {"observed": 15, "number": 200, "batch_size": 50, "lr": 3e-2, "test_size": 100}
    result = cde(tiny_cde(tmp_path, iterations=40, eval_every=20, **settings))
    assert result.accuracy > 0.9


def test_learns_intensities(tmp_path: Path) -> None:
    settings = {"data": "events", "number": 200, "batch_size": 50, "lr": 2e-2, "kl_warmup": 0}
    sizes = {"encoder_hidden": 16, "hidden": 16, "latent": 4}
    config = tiny_latent(tmp_path, iterations=5, eval_every=5, **settings, **sizes)
    scores = latent(config).events
    assert scores is not None
    # It begins at the mean rate, so that nothing has to be learnt to be as good as a constant.
    assert scores.intensity_rmse < 1.15 * scores.constant_rmse


def test_a_traversal_moves_along_each_component(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and columns were once mixed up: where nothing is moved, all components are the same."""
    drawn: list[torch.Tensor] = []

    def keep(paths: torch.Tensor, *arguments: object) -> object:
        drawn.append(paths)
        return plot_traversal(paths, *arguments)

    monkeypatch.setattr("isocline.train.latent_ode.pictures.plot_traversal", keep)
    latent(tiny_latent(tmp_path, pictures=True))
    (paths,) = drawn
    assert paths.shape == (3, 5, 200, 2)
    assert torch.allclose(paths[:, 2], paths[:1, 2].expand(3, -1, -1), atol=1e-2)
    assert not torch.allclose(paths[:, 0], paths[:1, 0].expand(3, -1, -1), atol=1e-2)


def test_pictures(tmp_path: Path) -> None:
    for data, names in {
        "spirals": {"training", "series", "latent", "traversal"},
        "events": {"training", "intensity", "latent"},
        "stays": {"training", "series", "latent", "traversal", "classes"},
    }.items():
        latent(tiny_latent(tmp_path / data, data=data, pictures=True))
        assert {path.stem for path in (tmp_path / data).glob("*.png")} == names
        for path in (tmp_path / data).glob("*.png"):
            assert f"]({path.name})" in (tmp_path / data / "report.md").read_text()
            with Image.open(path) as picture:
                assert min(picture.size) > 100, path
    cde(tiny_cde(tmp_path / "cde", pictures=True, observed=10))
    assert {path.stem for path in (tmp_path / "cde").glob("*.png")} == {"training", "classes"}
    latent(tiny_latent(tmp_path / "rnn", model="rnn", pictures=True))
    assert {path.stem for path in (tmp_path / "rnn").glob("*.png")} == {"training", "series"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty|no columns|header"),
        ("a,b\n1,2\n", "subject"),
        ("subject,time\nx,1\n", "subject"),
    ],
)
def test_a_bad_file_leaves_no_folder(tmp_path: Path, content: str, message: str) -> None:
    data = tmp_path / "data.csv"
    data.write_text(content)
    with pytest.raises(DataError, match=message):
        latent(tiny_latent(tmp_path / "run", data=str(data)))
    assert not (tmp_path / "run").exists()


def test_times_far_from_zero_have_to_be_aligned(tmp_path: Path) -> None:
    data = str(write_long(tmp_path / "data", start=1e5))
    with pytest.raises(ConfigError, match="give --align to count the times of each series"):
        latent(tiny_latent(tmp_path / "run", data=data))
    assert math.isfinite(latent(tiny_latent(tmp_path / "run", data=data, align=True)).test_elbo)


def test_bernoulli_values_stay_as_they_are(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    lines = [f"p{i},{t},on,{(i + t) % 2}" for i in range(20) for t in range(6)]
    data.write_text("\n".join(["subject,time,variable,value", *lines]) + "\n")
    settings = {"data": str(data), "likelihood": "bernoulli", "hide": 0.0}
    result = latent(tiny_latent(tmp_path / "run", **settings))
    assert result.test_per_value <= 0  # a probability, not a density
    data.write_text(data.read_text().replace("p3,2,on,1", "p3,2,on,0.5"))
    with pytest.raises(DataError, match=r"a value is 0.5, but --likelihood bernoulli"):
        latent(tiny_latent(tmp_path / "other", **settings))


def test_a_file_of_events(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    lines = [f"p{i},{t + 0.1 * i}" for i in range(20) for t in range(i % 5 + 1)]
    data.write_text("\n".join(["subject,time", *lines]) + "\n")
    with pytest.raises(ConfigError, match="has times alone, without values; give --events"):
        latent(tiny_latent(tmp_path / "run", data=str(data)))
    result = latent(tiny_latent(tmp_path / "run", data=str(data), events=True))
    assert math.isfinite(result.test_elbo)
    assert not result.hidden


def test_a_classifier_needs_classes(tmp_path: Path) -> None:
    data = str(write_long(tmp_path / "data", labels=False))
    with pytest.raises(ConfigError, match=r"has no class.* give labels beside the data"):
        cde(tiny_cde(tmp_path / "run", data=data))
    assert not (tmp_path / "run").exists()


def test_what_the_model_refuses_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`solver`: given Tsit5"):
        cde(tiny_cde(tmp_path / "run", solver="tsit5", row_steps=1))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    settings = {"model": "rnn", "lr": 1e30, "schedule": "constant"}
    with pytest.raises(TrainingError, match=r"the loss became .* lower --lr"):
        latent(tiny_latent(tmp_path, **settings))


def test_the_kept_weights_are_those_of_the_setting(tmp_path: Path) -> None:
    """With `last`, the result is of the weights after the last iteration."""
    kept = {}
    for keep in ("best", "last"):
        latent(tiny_latent(tmp_path / keep, keep=keep, iterations=6, lr=0.3, schedule="constant"))
        kept[keep] = json.loads((tmp_path / keep / "result.json").read_text())["test_elbo"]
    best, last = (checkpoint(tmp_path / "last", name)["global_step"] for name in ("best", "last"))
    assert (kept["best"] == kept["last"]) is (best == last)
    assert torch.isfinite(torch.tensor(list(kept.values()))).all()
