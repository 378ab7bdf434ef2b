"""`import isocline` needs torch alone, and nothing optional is imported on the way."""

import subprocess
import sys

OPTIONAL = (
    "lightning", "matplotlib", "numpy", "pandas", "rich", "scipy", "sklearn", "sksundae",
    "tensorboard", "torchdiffeq", "tyro",
)  # fmt: skip

# Torch imports some of these by itself where they are installed: only what isocline's own
# modules ask for counts, so a finder looks at who is asking.
SCRIPT = """
import importlib.abc, sys
import torch

BLOCKED = {blocked!r}
for name in [m for m in sys.modules if m.split(".")[0] in BLOCKED]:
    saved = sys.modules.pop(name)
asked = []

def asker():
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("importlib", "_frozen_importlib")):
            return name
        frame = frame.f_back
    return ""

class Wall(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] in BLOCKED:
            who = asker()
            asked.append((who, fullname))
            if who.split(".")[0] == "isocline":
                raise ModuleNotFoundError("No module named " + repr(fullname), name=fullname)
        return None

sys.meta_path.insert(0, Wall())
import isocline as ic
{body}
guilty = [pair for pair in asked if pair[0].split(".")[0] == "isocline"]
assert guilty == {guilty!r}, guilty
"""


def run(body: str, guilty: list[tuple[str, str]] | None = None) -> None:
    script = SCRIPT.format(blocked=OPTIONAL, body=body, guilty=guilty or [])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_and_solving_needs_torch_alone() -> None:
    run(
        "y = torch.ones(2, requires_grad=True)\n"
        "for method in ic.solvers.SOLVERS.values():\n"
        "    dt0 = None if method().adaptive else 0.1\n"
        "    ic.solve(lambda t, y: -y, y, 0, 1, solver=method(), dt0=dt0).ys.sum().backward()\n"
        "ic.nn.ODEBlock\n"
    )


def test_what_lacks_its_library_says_what_to_install() -> None:
    """A progress bar, and black boxes: one process, for each imports torch for seconds.

    What is caught there also proves that the wall of this test holds.
    """
    asked = {
        "progress=True": ("rich", "isocline.progress", "rich"),
        "solver='lsoda'": ("scipy", "isocline.solvers.external.from_scipy", "scipy"),
        "solver='cvode_bdf'": (
            "scikit-sundae", "isocline.solvers.external.from_sundials", "sksundae",
        ),
    }  # fmt: skip
    body = "".join(
        "try:\n"
        f"    ic.solve(lambda t, y: -y, torch.ones(2), 0, 1, {option})\n"
        "except ic.IsoclineError as error:\n"
        f"    assert 'pip install {package}' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('no error')\n"
        for option, (package, _, _) in asked.items()
    )
    run(body, guilty=[(module, library) for _, module, library in asked.values()])


def test_the_map_of_the_api_is_complete() -> None:
    """Every public name of the core is one attribute of `isocline`."""
    import isocline as ic

    for name in ("solve", "SaveAt", "Solution", "Status", "Statistics", "PID", "PI", "I"):
        assert hasattr(ic, name)
    for error in vars(ic.errors).values():
        if isinstance(error, type) and issubclass(error, ic.IsoclineError):
            assert getattr(ic, error.__name__) is error
