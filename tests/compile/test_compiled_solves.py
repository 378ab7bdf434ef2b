"""Steps that went through the compiler compute what eager ones do."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.compile.tracing import traces_so_far

from .compile_cases import Counting, answers, same, states

LOOSE: dict[str, Any] = {"solver": "bosh3", "rtol": 1e-3, "atol": 1e-3}
"""In float32, tolerances for which the error estimate is well above rounding.

By a method of four stages, which hands its last slope on as the default does: the compiler's time
goes with the stages. The default is among the slow tests.
"""


@pytest.fixture(scope="module")
def field() -> Counting:
    torch.manual_seed(3)
    return Counting(torch.float32)


def alike(field: Any, y0: Any, watched: Any = (), ulps: float = 1e5, **options: Any) -> None:
    same(
        answers(field, y0, watched, **options)[0],
        answers(field, y0, watched, compile=True, **options)[0],
        ulps,
    )


@pytest.mark.parametrize("batch", [2, 5, 128])
def test_values_and_gradients_for_every_batch(field: Counting, batch: int) -> None:
    alike(field, torch.randn(batch, 2), list(field.parameters()), ulps=200, **LOOSE)


def test_nothing_is_traced_again_in_training(
    field: Counting, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither for the counter, nor for a step of the optimiser, nor for another batch."""
    answers(field, torch.randn(4, 2), compile=True, **LOOSE)
    before = traces_so_far()
    capfd.readouterr()
    optimiser = torch.optim.SGD(field.parameters(), lr=0.1)
    for batch in (3, 8, 3):
        y0 = torch.randn(batch, 2)
        losses = []
        for fast in (True, False):
            optimiser.zero_grad()
            loss = ic.solve(field, y0, 0.0, 1.0, compile=fast, **LOOSE).ys.square().mean()
            loss.backward()
            losses.append(loss.item())
        optimiser.step()
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert traces_so_far() == before
    assert capfd.readouterr().err == ""
    assert field.nfe > 0  # counted by the eager solves


def test_a_state_or_weights_laid_out_otherwise_are_not_misread(field: Counting) -> None:
    """AOTInductor's artifacts read memory as it lies: a transposed input gave wrong numbers."""
    alike(field, torch.randn(2, 6).t(), list(field.parameters()), ulps=200, **LOOSE)


def test_the_driver_takes_the_steps_of_the_loop_to_the_last_bit(
    field: Counting, loop: Any, driven: list[bool]
) -> None:
    """In machine code; `test_native_loop.py` tries many solves, over graphs."""
    y0 = torch.randn(3, 2)

    def run() -> list[Tensor]:
        return answers(field, y0, list(field.parameters()), compile=True, **LOOSE)[0]

    assert all(map(torch.equal, run(), loop(run)))
    assert driven == [True]


def test_threads_do_not_disturb_one_another(field: Counting, driven: list[bool]) -> None:
    """Machine code runs without Python's lock."""
    starts = {batch: torch.randn(batch, 2) for batch in (2, 3, 5, 8)}

    def solve(batch: int) -> Tensor:
        with torch.no_grad():
            return ic.solve(field, starts[batch], 0.0, 1.0, compile=True, **LOOSE).ys

    expected = {batch: solve(batch) for batch in starts}
    wrong: list[int] = []

    def work(batch: int) -> None:
        wrong.extend(batch for _ in range(20) if not torch.equal(solve(batch), expected[batch]))

    workers = [threading.Thread(target=work, args=(batch,)) for batch in starts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert len(driven) == 84
    assert all(driven)


def test_an_embedded_block(field: Counting) -> None:
    block = ic.nn.ODEBlock(field, compile=True, **LOOSE)
    plain = ic.nn.ODEBlock(field, **LOOSE)
    x = torch.randn(4, 2)
    torch.testing.assert_close(block(x), plain(x), rtol=1e-5, atol=1e-6)
    assert block.nfe_forward == block.stats.nfe_forward > 0


SCRIPT = """
import sys
import torch
import isocline as ic
from tests.compile.compile_cases import Counting
torch.set_num_threads(1)
field = Counting(torch.float32)
options = {"solver": "bosh3", "rtol": 1e-3, "atol": 1e-3}
sol = ic.solve(field, torch.ones(3, 2), 0.0, 1.0, compile=True, **options)
sol.ys.sum().backward()
assert sol.ys.isfinite().all()
assert not {"torch._inductor.compile_fx"} & set(sys.modules)
"""


def test_another_process_finds_what_was_compiled(field: Counting) -> None:
    answers(field, torch.randn(4, 2), compile=True, **LOOSE)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 2, 128])
def test_both_precisions_and_output_between_steps(batch: int, dtype: torch.dtype) -> None:
    net = Counting(dtype, width=16)
    options = LOOSE | {"solver": "tsit5"} if dtype == torch.float32 else {}
    y0 = torch.randn(batch, 2, dtype=dtype)
    ulps = 1e5 if dtype == torch.float64 else 200
    alike(net, y0, list(net.parameters()), ulps, save=ic.SaveAt(ts=[0.1, 0.5, 0.9]), **options)
    alike(net, y0, list(net.parameters()), ulps, save=ic.SaveAt(dense=True), **options)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["dop853", "bosh3", "rk4"])
def test_other_methods(solver: str) -> None:
    net = Counting()
    dt0 = 0.1 if solver == "rk4" else None
    alike(net, states(3, 2), list(net.parameters()), solver=solver, dt0=dt0)


@pytest.mark.slow
def test_steps_that_keep_what_their_gradient_needs() -> None:
    """Of a field wide enough; with equal steps uncompiled ones are the same but for rounding."""
    torch.manual_seed(4)
    field = Counting(width=256)
    options: dict[str, Any] = {"solver": "bosh3", "controller": ic.Constant(), "dt0": 0.125}
    for batch in (8, 5):
        y0, weights = states(batch, 2), list(field.parameters())
        fast, stats = answers(field, y0, weights, compile=True, **options)
        slow, _ = answers(field, y0, weights, **options)
        same(fast, slow, 1e3)
        assert stats.nfe_backward == 1  # the slope at the start alone is taken again


@pytest.mark.slow
def test_a_divergence_over_a_structure_of_states() -> None:
    """Without a compiler in `test_compiled_formulas.py`."""
    net = Counting()

    def flow(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        velocity, pull = torch.func.vjp(lambda z: net(t, z), state[0])
        eye = torch.eye(2, dtype=velocity.dtype)
        rows = [pull(eye[i].expand_as(velocity))[0][:, i] for i in range(2)]
        return velocity, -(rows[0] + rows[1])

    for batch in (5, 64):
        alike(flow, (states(batch, 2), states(batch)), list(net.parameters()), solver="heuneuler")


@pytest.mark.slow
def test_arguments_and_convolutions() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(4, 4, 3, padding=1, dtype=torch.float64)

    def conv(t: Tensor, y: Tensor, context: Tensor) -> Tensor:
        return torch.tanh(layer(y) + t + context)

    for batch in (2, 3):
        context = states(batch, 4, 5, 5).requires_grad_()
        watched = [context, *layer.parameters()]
        alike(conv, states(batch, 4, 5, 5), watched, args=(context,))


@pytest.mark.slow
def test_an_operator_that_cannot_be_compiled_ahead_of_time() -> None:
    matrix = torch.eye(2) + 0.1 * torch.ones(2, 2)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -torch.linalg.solve(matrix, y)

    y0 = torch.ones(2, 3)
    for _ in range(2):
        with pytest.warns(ic.CompileWarning, match=r"solve.*cannot be compiled ahead of time"):
            fast = ic.solve(field, y0, 0.0, 1.0, compile=True, **LOOSE)
        assert torch.equal(fast.ys, ic.solve(field, y0, 0.0, 1.0, **LOOSE).ys)
