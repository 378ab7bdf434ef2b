"""The command line in process: commands, exit codes, messages."""

import builtins
import subprocess
import sys
from pathlib import Path

import pytest

import isocline
from isocline.cli.main import main
from isocline.nn import ODEBlock
from isocline.solvers import SOLVERS

from .messages import fails

TINY = [
    "--epochs=1",
    "--limit-train=64",
    "--batch-size=32",
    "--channels=8",
    "--tol=1e-2",
    "--threads=1",
    "--no-progress",
]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"isocline {isocline.__version__}\n"


def test_solvers_lists_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solvers"]) == 0
    text = capsys.readouterr().out
    for name, solver in SOLVERS.items():
        rows = [line.split() for line in text.splitlines() if line.split()[:1] == [name]]
        assert len(rows) == 2, name
        assert rows[0][1] == str(solver().order)
        assert solver().reference.split()[0] in rows[1]


def test_solvers_fits_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["solvers"]) == 0
    text = capsys.readouterr().out
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_trains_evaluates_and_refuses_to_train_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = str(tmp_path / "run")
    assert main(["train", "odenet", *TINY, "--out", out]) == 0
    text = capsys.readouterr().out
    assert "test error" in text
    assert str(tmp_path / "run" / "report.md") in text
    evaluate = ["evaluate", out, "--tolerances", "1e-1,1e-2", "--samples", "32", "--repeats", "1"]
    assert main(evaluate) == 0
    text = capsys.readouterr().out
    assert "1e-01" in text
    assert "1e-02" in text
    assert (tmp_path / "run" / "figure3.png").is_file()
    assert "continue it with --resume" in fails(capsys, "train", "odenet", *TINY, "--out", out)
    assert main(["train", "odenet", "--resume", "--no-progress", "--out", out]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train odenet --tol -1", "--tol is -1.0, but must be positive"),
        ("train odenet --solver rk45", "--solver rk45 is unknown; choose one of"),
        ("train odenet --data mnist --data-dir nowhere --out new", "nowhere: no such folder"),
        ("evaluate nowhere", "nowhere holds no run"),
        ("evaluate nowhere --tolerances 3..", "no positive number"),
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
    assert message in fails(capsys, *arguments.split())


def test_a_failed_solve_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tolerance that float32 cannot keep; at the usual limit of steps it takes minutes to fail.
    monkeypatch.setitem(ODEBlock.__init__.__kwdefaults__, "max_steps", 50)
    arguments = ["train", "odenet", *TINY, "--tol=1e-30", "--out", str(tmp_path / "run")]
    assert "step" in fails(capsys, *arguments)


def test_a_stranger_error_keeps_its_kind_and_its_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arguments: object) -> None:
        raise ValueError("out of\ncheese")

    monkeypatch.setattr("isocline.cli.commands.run", fail)
    message = fails(capsys, "solvers")
    assert message == "error: ValueError: out of cheese (ISOCLINE_TRACEBACK=1 shows where)\n"
    monkeypatch.setenv("ISOCLINE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="cheese"):
        main(["solvers"])


def test_interruption(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("isocline.cli.commands.run", interrupt)
    assert main(["solvers"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("missing", ["tyro", "rich"])
def test_a_missing_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    original = builtins.__import__

    def absent(name: str, *rest: object) -> object:
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return original(name, *rest)  # type: ignore[arg-type]

    for module in ("commands", "tables"):
        monkeypatch.delitem(sys.modules, f"isocline.cli.{module}", raising=False)
    monkeypatch.setattr(builtins, "__import__", absent)
    message = fails(capsys, "solvers")
    assert message == f"error: {missing} is not installed; run: pip install 'isocline[train]'\n"


@pytest.mark.parametrize(
    ("arguments", "status"), [(["--help"], 0), (["train", "foo"], 2), (["solvers", "--x"], 2)]
)
def test_help_and_unknown_commands(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == status
    assert "isocline" in "".join(capsys.readouterr())


def test_the_core_and_the_settings_import_no_extra() -> None:
    code = (
        "import sys, isocline, isocline.nn, isocline.train, isocline.cli.main\n"
        "heavy = {'lightning', 'matplotlib', 'pandas', 'rich', 'sklearn', 'tyro', 'scipy'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
