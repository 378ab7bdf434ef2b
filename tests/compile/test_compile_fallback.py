"""What cannot be compiled runs uncompiled, after one warning that says why and what to change."""

import shutil
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.compile import building, kinds

from .compile_cases import Counting

pytestmark = pytest.mark.usefixtures("interpreted")


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def falls_back(
    reason: str, field: Any = decay, y0: Any = None, t1: Any = 1.0, **options: Any
) -> None:
    """The solve warns once, and answers to the last bit what an eager one does."""
    start = torch.ones(2, 2) if y0 is None else y0
    with pytest.warns(ic.CompileWarning, match=reason) as caught:
        fast = ic.solve(field, start, 0.0, t1, compile=True, **options)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert torch.equal(fast.ys, ic.solve(field, start, 0.0, t1, **options).ys)


SOLVES: dict[str, tuple[str, dict[str, Any]]] = {
    "implicit": ("not an explicit", {"solver": "radauiia5", "dt0": 0.1}),
    "black box": ("not an explicit", {"solver": "lsoda"}),
    "multistep": ("not an explicit", {"solver": "adams"}),
    "complex": ("complex states", {"y0": torch.ones(2, dtype=torch.complex64)}),
    "event": ("events are looked for", {"event": ic.Event(lambda t, y: y.sum() - 1)}),
    "norm": ("a function of your own", {"norm": lambda y: y.abs().max()}),
    "time": ("a time requires grad", {"t1": torch.tensor(1.0, requires_grad=True)}),
    "stages": ("further stages", {"solver": "vern7", "save": ic.SaveAt(ts=[0.3])}),
    "direct": ("adjoint=Direct", {"adjoint": ic.Direct()}),
    "backsolve": ("adjoint=Backsolve", {"adjoint": ic.Backsolve()}),
    "slots": ("adjoint=Checkpointed", {"adjoint": ic.Checkpointed(slots=2)}),
}


@pytest.mark.parametrize("name", SOLVES)
def test_solves_of_another_kind(name: str) -> None:
    reason, options = SOLVES[name]
    falls_back(reason, **options)


def test_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        falls_back("autocast is on", decay)


def test_a_field_that_looks_at_values() -> None:
    def switched(t: Tensor, y: Tensor) -> Tensor:
        return -y if t < 0.5 else y

    def stopped(t: Tensor, y: Tensor) -> Tensor:
        return -y * max(0.0, y.max().item())

    falls_back("looks at values of tensors.*torch.where", switched)
    falls_back("looks at values of tensors", stopped)


def test_a_field_that_draws_random_numbers() -> None:
    def noisy(t: Tensor, y: Tensor) -> Tensor:
        return -y + 0 * torch.randn_like(y)

    with torch.no_grad():
        falls_back("draws random numbers", noisy)


def test_a_field_that_writes_into_what_it_holds() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(2))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.seen.add_(y.detach().mean(0))
            return -y

    falls_back("writes into a tensor that it holds", Writing())


def test_a_field_that_reads_its_own_counter() -> None:
    class Ageing(Counting):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.nfe += 1
            return -y * (1 + 1e-9 * self.nfe)

    field = Ageing()
    with pytest.warns(ic.CompileWarning, match="depends on what it changes itself.*nfe"):
        ic.solve(field, torch.ones(2, 2), 0.0, 1.0, compile=True)


class _Box:
    """Keeps a tensor where no look at it finds it."""

    __slots__ = ("_get",)

    def __init__(self, tensor: Tensor) -> None:
        self._get = [tensor].__getitem__

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return -y * self._get(0)


def test_a_tensor_that_is_hidden() -> None:
    falls_back("cannot be found.*args=", _Box(torch.tensor(2.0, requires_grad=True)))
    falls_back("cannot be found.*args=", _Box(torch.tensor([2.0, 1.0])))


def test_a_number_that_changes_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value would be compiled anew: that is told, and how to avoid it."""
    field = Counting(torch.float32)
    monkeypatch.setattr(kinds, "_MAX_KINDS", 2)
    field.scale = 0.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            field.scale += 1.0
            with torch.no_grad():
                ic.solve(field, torch.ones(2, 2), 0.0, 1.0, solver="bosh3", compile=True)
    assert len(caught) == 1
    assert "field.scale changes from solve to solve" in str(caught[0].message)
    assert "make it a tensor" in str(caught[0].message)


def test_inside_of_a_transform() -> None:
    def end(y0: Tensor) -> Tensor:
        with pytest.warns(ic.CompileWarning, match="transform of torch.func"):
            return ic.solve(decay, y0, 0.0, 1.0, compile=True, adjoint=ic.Direct()).ys[-1]

    def end_plainly(y0: Tensor) -> Tensor:
        return ic.solve(decay, y0, 0.0, 1.0, adjoint=ic.Direct()).ys[-1]

    with torch.no_grad():
        pair = torch.tensor([1.0, 2.0])
        found = torch.func.jvp(end, (pair,), (pair,))[1]
        torch.testing.assert_close(found, torch.func.jvp(end_plainly, (pair,), (pair,))[1])


def test_no_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from isocline.compile import program

    monkeypatch.setattr(program, "built", building.built)
    monkeypatch.setenv("ISOCLINE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    falls_back("no C\\+\\+ compiler.*install one")
    assert not list(tmp_path.glob("*.so"))
    assert "compiling" not in capsys.readouterr().err


def test_a_cache_that_cannot_be_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from isocline.compile import program

    monkeypatch.setattr(program, "built", building.built)
    monkeypatch.setenv("ISOCLINE_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o777)
    falls_back("can be written to by others.*ISOCLINE_CACHE_DIR")


def test_wrong_fields_raise_what_they_always_do() -> None:
    with pytest.raises(ic.InputError, match="output of shape"):
        ic.solve(lambda t, y: y[:1], torch.ones(2, 2), 0.0, 1.0, compile=True)


def test_a_solve_of_no_length_needs_no_step() -> None:
    assert torch.equal(ic.solve(decay, torch.ones(2), 1.0, 1.0, compile=True).ys[0], torch.ones(2))


def test_importing_isocline_imports_no_compiler() -> None:
    import subprocess

    script = (
        "import sys, torch, isocline\n"
        "isocline.solve(lambda t, y: -y, torch.ones(2), 0.0, 1.0)\n"
        "assert not {'torch._inductor', 'torch._dynamo', 'isocline.compile'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
