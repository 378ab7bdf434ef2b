"""Programs written for torchdiffeq run unchanged on isocline."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isocline.torchdiffeq import uninstall
from isocline.torchdiffeq.__main__ import main

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in; afterwards this process is as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", ["", *sys.path[1:]])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    yield tmp_path
    uninstall()


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "isocline.torchdiffeq", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


# --- programs --------------------------------------------------------------------------------


def test_a_training_loop_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = run(PROGRAMS / "spiral.py", "--adjoint", "--iterations", "12", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"trained with dopri5: {PROGRAMS / 'spiral.py'}\n"
    assert done.stderr == ""


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        ("spiral.py", ["--method", "rk4"], "trained with rk4"),
        ("spiral.py", ["--method", "implicit_adams", "--adjoint"], "trained with implicit_adams"),
        ("flow.py", [], "a density"),
        ("ball.py", [], "gravity found"),
        ("latent.py", [], "latent"),
        ("own_method.py", [], "own method"),
    ],
)
def test_programs(
    program: str, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    dtype = torch.get_default_dtype()
    try:
        assert main([str(PROGRAMS / program), *arguments]) == 0, capsys.readouterr().err
    finally:
        torch.set_default_dtype(dtype)
    assert says in capsys.readouterr().out


# --- how Python runs a script ----------------------------------------------------------------


def test_a_script_finds_itself_as_under_python(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = here / "work"
    folder.mkdir()
    (folder / "beside.py").write_text("VALUE = 42\n")
    script = folder / "script.py"
    script.write_text(
        "import sys\nfrom beside import VALUE\nimport torchdiffeq\n"
        "assert __name__ == '__main__'\n"
        "assert sys.modules['__main__'].VALUE == VALUE == 42\n"
        "print(sys.argv, __file__, torchdiffeq.odeint.__module__)\n"
        "sys.exit(3)\n"
    )
    with pytest.raises(SystemExit) as caught:
        main([str(script), "-m", "--flag", "value"])
    assert caught.value.code == 3
    argv = [str(script), "-m", "--flag", "value"]
    assert capsys.readouterr().out == f"{argv} {script} isocline.torchdiffeq.interface\n"
    del sys.modules["beside"]


def test_a_module_is_run_as_by_python(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = here / "program"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(
        "import sys\nfrom torchdiffeq import odeint_adjoint\n"
        "print(__name__, __package__, sys.argv[1:], odeint_adjoint.__module__)\n"
    )
    assert main(["-m", "program", "--deep", "2"]) == 0
    found = capsys.readouterr().out
    assert found == "__main__ program ['--deep', '2'] isocline.torchdiffeq.adjoint\n"
    for name in [name for name in sys.modules if name.startswith("program")]:
        del sys.modules[name]


def test_a_folder_with_a_main_is_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "__main__.py").write_text("import torchdiffeq\nprint('ran')\n")
    assert main([str(here)]) == 0
    assert capsys.readouterr().out == "ran\n"


def test_a_traceback_begins_in_the_script(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = here / "wrong.py"
    script.write_text(
        "import torch\nfrom torchdiffeq import odeint\n\n"
        "def start():\n    odeint(None, torch.ones(1), torch.tensor([0.0, 1.0]))\n\nstart()\n"
    )
    assert main([str(script)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{script}", line 7, in <module>'
    assert "InputTypeError: `func`: given NoneType" in lines[-1]


def test_a_script_that_does_not_parse(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = here / "broken.py"
    script.write_text("def\n")
    assert main([str(script)]) == 1
    error = capsys.readouterr().err
    assert "SyntaxError" in error
    assert "isocline" not in error.replace(str(here), "")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ([], 2, "usage: python -m isocline.torchdiffeq script.py [args]"),
        (["--help"], 0, "-m module [args]"),
        (["-m"], 2, "-m needs the name of a module"),
        (["-c", "pass"], 2, "unknown option -c"),
        (["not_there.py"], 2, "can't open file 'not_there.py'"),
    ],
)
def test_usage(
    arguments: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    found = capsys.readouterr()
    assert says in (found.err if status else found.out)
    assert "Traceback" not in found.err


@pytest.mark.usefixtures("here")
def test_a_module_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "surely_no_such_module"]) == 1
    assert "No module named surely_no_such_module" in capsys.readouterr().err
