"""The commands for flows: train, sample, density; exit codes and messages."""

from pathlib import Path

import numpy as np
import pytest

from isocline.cli.main import main

from .messages import fails

TINY = [
    *("--iterations=4", "--eval-every=2", "--batch-size=32", "--units=4", "--t1=1", "--tol=1e-2"),
    *("--validation-size=50", "--test-size=60", "--threads=1", "--no-pictures", "--no-progress"),
]


def test_trains_samples_and_evaluates(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "cnf", *TINY, "--data", "two-circles", "--out", "run"]) == 0
    text = capsys.readouterr().out
    for label in ("test log-likelihood", "true density", "NFE forward / backward", "report.md"):
        assert label in text
    assert main(["sample", "run", "-n", "20", "--out", "samples.npy"]) == 0
    assert "20 samples: samples.npy" in capsys.readouterr().out
    assert np.load("samples.npy").shape == (20, 2)
    assert main(["density", "run", "--grid", "--size", "30"]) == 0
    text = capsys.readouterr().out
    assert "mass within the grid" in text
    assert Path("run/density.png").is_file()
    assert Path("run/density.npz").is_file()
    assert main(["density", "run", "--points", "samples.npy"]) == 0
    text = capsys.readouterr().out
    assert "mean log-likelihood" in text
    assert "run/log_density.csv" in text
    assert "is a run of the kind cnf, not odenet" in fails(capsys, "evaluate", "run")
    np.save("wide.npy", np.zeros((3, 5)))
    assert "5 column(s)" in fails(capsys, "density", "run", "--points", "wide.npy")
    assert main(["train", "cnf", "--resume", "--no-progress", "--out", "run"]) == 0


def test_the_bar_fits_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["train", "cnf", *TINY, "--progress", "--out", str(tmp_path / "run")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")]
    assert len(lines) == 1
    for label in ("loss: ", "held-out: ", "NFE: "):
        assert lines[0].count(label) == 1
    assert lines[0].rstrip()[-1].isdigit()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train cnf --data moons", "--data moons is unknown; choose one of"),
        ("train cnf --data none.npy --out new", "none.npy: no such file"),
        ("train cnf --data nan.csv --out new", "nan.csv: 1 value(s) are missing, NaN or infinite"),
        ("train cnf --data empty.csv --out new", "empty.csv: empty"),
        ("train cnf --objective density --data wine", "--objective density, which has no data"),
        ("sample nowhere", "nowhere holds no run"),
        ("sample nowhere --out x.txt", "--out x.txt must end in .npy or .csv"),
        ("density nowhere --grid", "nowhere holds no run"),
        ("density nowhere", "give one of --grid and --points FILE; here is neither"),
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
    Path("nan.csv").write_text("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(20)) + "1,nan\n")
    assert message in fails(capsys, *arguments.split())
    assert not Path("new").exists()
