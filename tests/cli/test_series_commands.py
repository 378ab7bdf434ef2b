"""The commands for time series: train latent-ode, train neural-cde, predict; messages."""

from pathlib import Path

import pandas as pd
import pytest

from isocline.cli.main import main

from .messages import fails

TINY = [
    *("--iterations=4", "--eval-every=2", "--batch-size=8", "--number=24", "--test-size=10"),
    *("--validation-size=8", "--tol=1e-2", "--threads=1", "--no-pictures", "--no-progress"),
]
SMALL = ["--latent=3", "--hidden=6", "--encoder-hidden=5"]


def write(path: Path) -> None:
    lines = [f"p{i},{t},flow,{i + t}" for i in range(20) for t in range(5)]
    path.write_text("\n".join(["subject,time,variable,value", *lines, "p0,1,flow,oops"]) + "\n")


def test_trains_and_predicts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("data.csv"))
    arguments = ["train", "latent-ode", *TINY, *SMALL, "--data", "data.csv", "--out", "run"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for label in ("oops", "test ELBO per series", "RMSE, hidden values", "NFE", "report.md"):
        assert label in text
    assert text.index("oops") < text.index("test ELBO")
    predict = ["predict", "run", "--input", "data.csv"]
    assert main([*predict, "--times", "0:4:2", "--out", "p.csv", "--samples", "3"]) == 0
    text = capsys.readouterr().out
    assert "oops" in text
    assert "written: p.csv" in text
    assert len(pd.read_csv("p.csv")) == 20 * 3
    assert "--times is missing" in fails(capsys, *predict)
    assert "is a run of the kind latent-ode, not cnf" in fails(capsys, "sample", "run")
    assert "continue it with --resume" in fails(capsys, *arguments)
    assert main(["train", "latent-ode", "--resume", "--no-progress", "--out", "run"]) == 0


def test_trains_a_classifier(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    arguments = ["--observed=20", "--dropped=0.3", "--hidden=4", "--width=6", "--out", out]
    assert main(["train", "neural-cde", *TINY, *arguments]) == 0
    text = capsys.readouterr().out
    for label in ("test accuracy", "test AUC", "confusion", "NFE forward / backward"):
        assert label in text


@pytest.mark.parametrize("kind", ["latent-ode", "neural-cde"])
def test_the_bar_fits_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    arguments = [*TINY, "--observed=10", "--progress", "--out", str(tmp_path / "run")]
    assert main(["train", kind, *arguments]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")]
    assert len(lines) == 1
    for label in ("loss: ", "held-out: ", "NFE: "):
        assert lines[0].count(label) == 1
    assert lines[0].rstrip()[-1].isdigit()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train latent-ode --data moons", "--data moons: there is no such file or folder"),
        ("train latent-ode --data physionet", "--data physionet needs --path"),
        ("train latent-ode --data physionet --path none --out new", "none: no such file or folder"),
        ("train latent-ode --data empty.csv --out new", "empty.csv"),
        ("train latent-ode --data events --model rnn", "--data events is for --model latent-ode"),
        ("train latent-ode --solver rk4", "--solver rk4 is not an adaptive solver"),
        ("train neural-cde --data events", "--data events has no classes"),
        ("train neural-cde --data data.csv --out new", "has no class(es), but a classifier needs"),
        ("predict nowhere --input data.csv --times 1", "nowhere holds no run"),
        ("predict nowhere --times 1", "--input is missing"),
        ("predict nowhere --input none.csv --times 1", "none.csv: there is no such file"),
    ],
)
def test_the_users_errors_are_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.csv").touch()
    write(Path("data.csv"))
    assert message in fails(capsys, *arguments.split())
    assert not Path("new").exists()
