"""Trained models of series in use: predictions in the units of the data, and what is refused."""

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isocline.data import DataError, Reading
from isocline.train import ConfigError, PredictConfig
from isocline.train.cnf.run import train_cnf
from isocline.train.latent_ode.run import train_latent_ode
from isocline.train.neural_cde.run import train_neural_cde
from isocline.train.predict.config import parse_times
from isocline.train.predict.run import predict_run

from .cnf_runs import tiny_flow
from .series_runs import tiny_cde, tiny_latent, write_long


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and runs on it: `run` (values and classes), `cde` (classes), `events`."""
    folder = tmp_path_factory.mktemp("series")
    data = str(write_long(folder / "data", number=40))
    fit = {"iterations": 80, "eval_every": 40, "batch_size": 28, "lr": 3e-2, "hide": 0.0}
    sizes = {"latent": 4, "hidden": 8, "encoder_hidden": 12}
    train_latent_ode(tiny_latent(folder / "run", data=data, **fit, **sizes))
    train_neural_cde(tiny_cde(folder / "cde", data=data))
    train_latent_ode(tiny_latent(folder / "events", data="events", span=2.0))
    return folder


def predict(run: Path, out: Path, **settings: object) -> pd.DataFrame:
    options = PredictConfig(**{"out": out, **settings})  # type: ignore[arg-type]
    result = predict_run(run, options)
    assert result.files[0] == out
    return pd.read_csv(out)


def test_predictions_are_in_the_units_of_the_data(folder: Path, tmp_path: Path) -> None:
    data = folder / "data" / "series.csv"
    out = tmp_path / "out.csv"
    frame = predict(folder / "run", out, input=data, times="0:10:2.5", samples=20)
    assert list(frame.columns) == ["subject", "time", "variable", "mean", "lower", "upper"]
    assert len(frame) == 40 * 5 * 2
    assert sorted(frame["time"].unique()) == [0, 2.5, 5, 7.5, 10]
    by_variable = frame.groupby("variable")["mean"].mean()
    assert by_variable["pressure"] == pytest.approx(110, abs=25)
    assert by_variable["heat"] == pytest.approx(37, abs=2)
    assert (frame["lower"] < frame["mean"]).all()
    assert (frame["mean"] < frame["upper"]).all()
    classes = pd.read_csv(tmp_path / "out.classes.csv")
    assert list(classes.columns) == ["subject", "class_0", "class_1"]
    assert set(classes["subject"]) == set(frame["subject"])
    np.testing.assert_allclose(classes["class_0"] + classes["class_1"], 1, rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.classes.csv", "out.csv"]


def test_intervals_widen_with_their_level(folder: Path, tmp_path: Path) -> None:
    settings = {"input": folder / "data" / "series.csv", "times": "1,2", "samples": 5}
    narrow = predict(folder / "run", tmp_path / "a.csv", level=0.5, **settings)
    wide = predict(folder / "run", tmp_path / "b.csv", level=0.95, **settings)
    pd.testing.assert_series_equal(narrow["mean"], wide["mean"])
    # Of a normal distribution: 1.96 and 0.674 deviations.
    ratio = (wide["upper"] - wide["mean"]) / (narrow["upper"] - narrow["mean"])
    np.testing.assert_allclose(ratio, 1.95996 / 0.67449, rtol=1e-3)
    again = predict(folder / "run", tmp_path / "c.csv", level=0.5, **settings)
    pd.testing.assert_frame_equal(narrow, again)
    other = predict(folder / "run", tmp_path / "d.csv", level=0.5, seed=1, **settings)
    assert not np.allclose(narrow["mean"], other["mean"], rtol=1e-9)


def test_missing_and_unknown_variables(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "new.csv"
    data.write_text(
        "variable,subject,time,value,note\npressure,x,1,110,a\nheight,x,1,180,b\npressure,y,1,b,c\n"
        "pressure,y,2,90,\n"
    )
    told: list[Reading] = []
    options = PredictConfig(input=data, times="3", out=tmp_path / "out.csv", samples=3)
    result = predict_run(folder / "run", options, told.append)
    assert (result.series, result.times, result.missing) == (2, 1, ("heat",))
    assert "heat" in result.summary()["variables of the model that are not there"]
    assert told[0].rows - told[0].kept == 2
    frame = pd.read_csv(tmp_path / "out.csv")
    assert list(frame["variable"]) == ["heat", "pressure"] * 2
    assert list(frame["subject"]) == ["x", "x", "y", "y"]


def test_class_probabilities_of_a_classifier(folder: Path, tmp_path: Path) -> None:
    frame = predict(folder / "cde", tmp_path / "out.csv", input=folder / "data")
    assert list(frame.columns) == ["subject", "class_0", "class_1"]
    assert len(frame) == 40
    np.testing.assert_allclose(frame["class_0"] + frame["class_1"], 1, rtol=1e-6)


def test_intensities_are_per_unit_of_the_datas_time(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "events.csv"
    rows = [f"{who},{time}" for who in "ab" for time in (0.5, 1.1, 1.3, 3.0)]
    data.write_text("\n".join(["subject,time", *rows]) + "\n")
    frame = predict(folder / "events", tmp_path / "out.csv", input=data, times="0:4:0.5")
    assert list(frame.columns) == ["subject", "time", "variable", "intensity"]
    assert len(frame) == 2 * 9
    # The data have about 5 events per unit of time, and the model began there.
    assert 3 < frame["intensity"].mean() < 8


def test_parquet_is_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    predict_run(folder / "run", PredictConfig(input=folder / "data", times="1", out=out, samples=2))
    assert len(pd.read_parquet(out)) == 80


def test_without_pyarrow_the_extra_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    out = tmp_path / "out.parquet"
    options = PredictConfig(input=folder / "data", times="1", out=out, samples=2)
    with pytest.raises(ConfigError, match="Parquet needs pyarrow"):
        predict_run(folder / "run", options)
    assert not list(tmp_path.iterdir())


def test_aligned_series_are_predicted_on_their_own_clock(tmp_path: Path) -> None:
    data = write_long(tmp_path / "data", start=1e5)
    train_latent_ode(tiny_latent(tmp_path / "run", data=str(data), align=True))
    frame = predict(tmp_path / "run", tmp_path / "out.csv", input=data, times="0,1", samples=2)
    first = pd.read_csv(data / "series.csv").groupby("subject")["time"].min()
    starts = frame.groupby("subject")["time"].min()
    np.testing.assert_allclose(starts, first[starts.index])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:48:12", [0, 12, 24, 36, 48]),
        ("0:1:0.1", [round(0.1 * n, 10) for n in range(11)]),
        ("0:1:0.4", [0, 0.4, 0.8]),
        ("5.5,1, 2,1", [1, 2, 5.5]),
        ("-1:1:1", [-1, 0, 1]),
        ("3", [3]),
    ],
)
def test_times(text: str, expected: list[float]) -> None:
    assert parse_times(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", "a", "1:2", "0:1:0", "0:1:-1", "2:1:1", "nan", "0:inf:1", "1,,2", "1:2:3:4"]
)
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no list of times; give one such as 1,2,5\.5"):
        parse_times(text)


def test_too_many_times() -> None:
    with pytest.raises(ConfigError, match="more than 1,000,000 times; take a larger step"):
        parse_times("0:1:1e-9")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": None}, "--input is missing"),
        ({"input": Path("none.csv")}, "none.csv: there is no such file or folder"),
        ({"times": None}, "--times is missing: when to predict"),
        ({"times": "soon"}, "no list of times"),
        ({"out": Path("x.txt")}, "--out x.txt must end in .csv or .parquet"),
        ({"out": Path("none/x.csv")}, "there is no folder none"),
        ({"level": 1.0}, "--level is 1.0, but must lie between 0 and 1"),
        ({"samples": 0}, "--samples is 0"),
        ({"tol": -1.0}, "--tol is -1.0"),
    ],
)
def test_wrong_options_are_named(
    folder: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    values = {"input": folder / "data", "times": "1", "out": tmp_path / "x.csv", **settings}
    with pytest.raises(ConfigError, match=message):
        predict_run(folder / "run", PredictConfig(**values))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    with pytest.raises(ConfigError, match="a classifier says nothing of times; leave it out"):
        predict_run(folder / "cde", PredictConfig(input=folder / "data", times="1", out=out))
    other = tmp_path / "other.csv"
    other.write_text("subject,time,variable,value\na,1,height,180\n")
    with pytest.raises(DataError, match="no series is left"):
        predict_run(folder / "run", PredictConfig(input=other, times="1", out=out))
    other.write_text("subject,time\na,1\n")
    with pytest.raises(DataError, match="measurements are expected here"):
        predict_run(folder / "run", PredictConfig(input=other, times="1", out=out))
    with pytest.raises(ConfigError, match="holds no run"):
        predict_run(tmp_path, PredictConfig(input=other, times="1", out=out))
    train_cnf(tiny_flow(tmp_path / "flow", iterations=1))
    with pytest.raises(ConfigError, match="is a run of the kind cnf; `isocline predict` is for"):
        predict_run(tmp_path / "flow", PredictConfig(input=other, times="1", out=out))
    assert not out.exists()


def test_the_tolerance_is_that_of_the_options(folder: Path, tmp_path: Path) -> None:
    settings = {"input": folder / "data", "times": "1", "samples": 2}
    rough = predict(folder / "run", tmp_path / "a.csv", **settings)
    exact = predict(folder / "run", tmp_path / "b.csv", tol=1e-6, **settings)
    assert not math.isclose(rough["mean"].sum(), exact["mean"].sum(), rel_tol=1e-12)
    np.testing.assert_allclose(rough["mean"], exact["mean"], rtol=0.2)
