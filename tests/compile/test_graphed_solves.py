"""Solves that a device takes by graphs. What a GPU records is recorded here on a tape."""

import contextlib
import gc
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline import _solve
from isocline.compile.graphs import capture
from isocline.compile.graphs.rounds import ROUNDS

from ..per_sample.lane_cases import off
from .conftest import forget
from .taped import Taped


@pytest.fixture(scope="module")
def tape() -> Iterator[Taped]:
    """The CPU is a device that records graphs."""
    with pytest.MonkeyPatch.context() as patch:
        forget(patch)
        taped = Taped()
        patch.setitem(capture.CAPTURES, "cpu", taped)
        yield taped


class Net(nn.Module):
    """A small network, driven; for one time or one of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y) - 0.3 * y + torch.cos(3 * t).reshape(-1, 1)


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(3)
    return Net()


def start(rows: int = 3) -> Tensor:
    return torch.linspace(-1.0, 2.0, 2 * rows, dtype=torch.float64).view(rows, 2)


Answer = tuple[ic.Solution, list[Tensor]]


def solved(
    field: Callable[..., Any], y0: Tensor, *, t0: Any = 0.0, t1: Any = 2.0, **options: Any
) -> Answer:
    """A solve, and the gradients of a loss over its rows for y0 and the field's parameters."""
    y0 = y0.detach().clone().requires_grad_()
    settings = {"solver": ic.Bosh3(), "rtol": 1e-5, "atol": 1e-6, **options}
    found = ic.solve(field, y0, t0, t1, **settings)
    wanted = [y0, *(field.parameters() if isinstance(field, nn.Module) else ())]
    weights = torch.linspace(-1, 2, found.ys.numel(), dtype=torch.float64).view_as(found.ys)
    loss = (weights * found.ys.sin()).sum()
    return found, list(torch.autograd.grad(loss, wanted))


def compare(field: Callable[..., Any], y0: Tensor, within: float = 1e-10, **options: Any) -> Answer:
    """By graphs, beside operation by operation: the same steps and the same numbers.

    Rounding moves the lengths of steps, and little else.
    """
    expected, theirs = solved(field, y0, compile=False, **options)
    found, gradients = solved(field, y0, compile=True, **options)
    assert found.status is expected.status
    assert found.stats.steps_accepted == expected.stats.steps_accepted
    assert found.stats.steps_rejected == expected.stats.steps_rejected
    assert torch.allclose(found.ts, expected.ts, rtol=within, atol=0.0)
    assert off(found.ys, expected.ys) <= within
    for gradient, other in zip(gradients, theirs, strict=True):
        assert off(gradient, other) <= within
    return found, gradients


def by_graphs(*given: Any, **options: Any) -> ic.Solution:
    """A solve by a method with few stages: there is little to trace."""
    return ic.solve(*given, compile=True, **{"solver": ic.Bosh3(), **options})


OUTPUT = {
    "end": None,
    "start and end": ic.SaveAt(t0=True, t1=True),
    "times": ic.SaveAt(ts=[0.0, 0.1, 0.11, 0.12, 0.9, 1.7, 2.0]),
    "times and end": ic.SaveAt(ts=[0.25, 1.5], t1=True),
}

STEPPING = pytest.mark.parametrize("stepping", ["joint", "per_sample"])


@STEPPING
@pytest.mark.parametrize("output", OUTPUT)
def test_the_same_as_operation_by_operation(
    stepping: str, output: str, net: Net, tape: Taped
) -> None:
    before = tape.replayed
    compare(net, start(), stepping=stepping, save=OUTPUT[output])
    assert tape.replayed > before


@STEPPING
def test_a_method_that_hands_on_no_slope(stepping: str, net: Net, tape: Taped) -> None:
    solver = ic.SSPRK432()
    compare(net, start(), solver=solver, stepping=stepping, save=ic.SaveAt(t1=True))


@STEPPING
def test_five_orders(stepping: str, net: Net, tape: Taped) -> None:
    compare(net, start(), solver=ic.Tsit5(), stepping=stepping, save=OUTPUT["times"])


CONTROL: dict[str, dict[str, Any]] = {
    "PI": {"controller": ic.PI()},
    "PID with bounds": {"controller": ic.PID(derivative=0.02, min_step=1e-4, max_step=0.2)},
    "stops": {"controller": ic.PID(stops=(0.3, 1.1))},
    "first step": {"dt0": 0.01},
    "first step too long": {"dt0": 1.9},
    "constant": {"solver": ic.RK4(), "dt0": 0.07},
    "backward in time": {"t0": 2.0, "t1": 0.0},
    "mean of the batch": {"norm": "rms"},
}


@pytest.mark.parametrize("what", CONTROL)
def test_control_on_the_device(what: str, net: Net, tape: Taped) -> None:
    compare(net, start(), **CONTROL[what])


@pytest.mark.parametrize("what", ["PI", "PID with bounds", "first step too long", "constant"])
def test_control_of_each_sample_on_the_device(what: str, net: Net, tape: Taped) -> None:
    compare(net, start(), stepping="per_sample", **CONTROL[what])


def test_tolerances_as_tensors(net: Net, tape: Taped) -> None:
    rtol = torch.tensor([1e-5, 1e-7], dtype=torch.float64)
    compare(net, start(), rtol=rtol, atol=1e-8)


def test_times_of_each_sample(net: Net, tape: Taped) -> None:
    ts = torch.tensor([[0.2, 0.9], [0.1, 1.9], [0.5, 0.5]], dtype=torch.float64)
    t1 = torch.tensor([1.0, 2.0, 1.5], dtype=torch.float64)
    compare(net, start(), stepping="per_sample", t1=t1, save=ic.SaveAt(ts=ts, t1=True))


def structured(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"a": -y["a"] * t, "b": y["a"].sum(-1, keepdim=True) - y["b"]}


def test_structures(tape: Taped) -> None:
    y0 = {"a": start(), "b": start()[:, :1].clone()}
    found = by_graphs(structured, y0, 0.0, 1.0, rtol=1e-7)
    expected = ic.solve(structured, y0, 0.0, 1.0, rtol=1e-7, solver=ic.Bosh3())
    assert found.ys["a"][-1].shape == (3, 2)
    assert off(found.ys["b"][-1], expected.ys["b"][-1]) <= 1e-12


# --- what the host has to do ------------------------------------------------------------------


@STEPPING
def test_the_host_hears_once_of_many_rounds(stepping: str, net: Net, tape: Taped) -> None:
    """And the next graph has been started by then; the walk back waits for nothing."""
    options: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-8, "stepping": stepping, "compile": True}
    solved(net, start(), **options)  # whose graphs are recorded
    recorded, read, replayed = tape.recorded, tape.read, tape.replayed
    found, _ = solved(net, start(), **options)
    counts = found.stats.samples
    tried = int((counts.steps_accepted + counts.steps_rejected).max()) if counts else 0
    tried = tried or found.stats.steps_accepted + found.stats.steps_rejected
    forward = math.ceil(tried / ROUNDS)
    assert tape.recorded == recorded
    assert tape.read - read <= forward + 1
    assert tape.replayed - replayed <= 2 * forward + 3


def test_parameters_that_change(tape: Taped) -> None:
    """A graph reads from its own places: what a field holds is brought there for each solve."""
    field = Net()
    for stepping in ("joint", "per_sample"):
        for _ in range(3):
            compare(field, start(), stepping=stepping)
            with torch.no_grad():
                for parameter in field.parameters():
                    parameter.mul_(0.8)
    for parameter in field.parameters():  # elsewhere in memory
        parameter.data = parameter.data.clone() + 0.1
    compare(field, start())


def test_batches_of_any_size(net: Net, tape: Taped) -> None:
    for rows in (3, 1, 7, 2):
        compare(net, start(rows))
        compare(net, start(rows), stepping="per_sample")


def test_more_shapes_than_are_kept(net: Net, tape: Taped) -> None:
    first, _ = compare(net, start(2))
    for rows in range(3, 13):
        by_graphs(net, start(rows), 0.0, 1.0)
    again, _ = compare(net, start(2))
    assert torch.equal(first.ys, again.ys)


def test_arguments(tape: Taped) -> None:
    def field(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        return -rate * y

    for rate in (0.5, 1.5):
        given = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
        found = by_graphs(field, start(), 0.0, 1.0, args=(given,), rtol=1e-8, atol=1e-10)
        (gradient,) = torch.autograd.grad(found.ys[-1].sum(), given)
        truth = start() * math.exp(-rate)
        assert off(found.ys[-1], truth) <= 1e-6
        assert off(gradient, -truth.sum()) <= 1e-5


# --- gradients --------------------------------------------------------------------------------


def test_backward_twice_and_second_derivatives(net: Net, tape: Taped) -> None:
    def gradient(compile: bool) -> tuple[Tensor, Tensor, Tensor]:
        y0 = start().requires_grad_()
        save = ic.SaveAt(ts=[0.4, 2.0])
        found = ic.solve(net, y0, 0.0, 2.0, rtol=1e-7, atol=1e-8, save=save, compile=compile)
        loss = found.ys.sin().sum()
        (first,) = torch.autograd.grad(loss, y0, retain_graph=True)
        (again,) = torch.autograd.grad(loss, y0, create_graph=True)
        (second,) = torch.autograd.grad(again.square().sum(), y0)
        return first, again.detach(), second

    one, two = gradient(True), gradient(False)
    assert torch.equal(one[0], one[1])
    for mine, theirs in zip(one, two, strict=True):
        assert off(mine, theirs) <= 1e-8


def test_a_solve_that_was_forgotten(net: Net, tape: Taped) -> None:
    """Activation checkpointing lets go of what was saved, and solves again."""
    from torch.utils.checkpoint import checkpoint

    y0 = start().requires_grad_()

    def end(y: Tensor) -> Tensor:
        found = by_graphs(net, y, 0.0, 2.0, rtol=1e-6, atol=1e-7).ys[-1]
        assert isinstance(found, Tensor)
        return found

    (plain,) = torch.autograd.grad(end(y0).sum(), y0)
    (found,) = torch.autograd.grad(checkpoint(end, y0, use_reentrant=False).sum(), y0)
    assert torch.equal(found, plain)


def test_a_tensor_changed_before_the_backward_pass(tape: Taped) -> None:
    field = Net()
    found = by_graphs(field, start().requires_grad_(), 0.0, 1.0)
    with torch.no_grad():
        next(field.parameters()).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.ys[-1].sum().backward()


def test_nothing_is_left_behind(tape: Taped) -> None:
    field = Net()
    found, _ = solved(field, start(), compile=True)
    rows = weakref.ref(found.ys)
    gc.collect()
    gc.disable()
    try:
        del found
        assert rows() is None
    finally:
        gc.enable()


def test_threads_take_turns(net: Net, tape: Taped) -> None:
    starts = [start(), start().flip(0), start() * 0.3]
    alone = [solved(net, y0, compile=True) for y0 in starts]
    found: dict[int, Answer] = {}

    def run(number: int) -> None:
        for _ in range(3):
            found[number] = solved(net, starts[number], compile=True)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(starts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, (expected, gradients) in enumerate(alone):
        assert torch.equal(found[number][0].ys, expected.ys)
        assert torch.equal(found[number][1][0], gradients[0])


# --- failures ---------------------------------------------------------------------------------


def blows_up(t: Tensor, y: Tensor) -> Tensor:
    return y * y


def becomes_nan(t: Tensor, y: Tensor) -> Tensor:
    return torch.where(t.reshape(-1, 1) < 0.6, -y, math.nan)


def is_nan(t: Tensor, y: Tensor) -> Tensor:
    return torch.sqrt(y)


@STEPPING
@pytest.mark.parametrize("field", [blows_up, becomes_nan, is_nan], ids=lambda f: f.__name__)
@pytest.mark.parametrize("options", [{}, {"max_steps": 11}, {"solver": ic.RK4(), "dt0": 0.25}])
def test_failures(
    stepping: str, field: Callable[..., Any], options: dict[str, Any], tape: Taped
) -> None:
    y0 = torch.tensor([[1.0], [0.2], [-0.5]], dtype=torch.float64)
    settings = {"rtol": 1e-5, "atol": 1e-7, "stepping": stepping, "throw": False}
    settings |= {"solver": ic.Bosh3(), **options}
    settings |= {"save": ic.SaveAt(ts=[0.1, 0.5, 0.9, 4.0])}
    found, expected = (
        ic.solve(field, y0, 0.0, 4.0, compile=compile, **settings) for compile in (True, False)
    )
    assert found.status is expected.status
    assert found.statuses == expected.statuses
    assert found.failed_samples == expected.failed_samples
    if options:  # else rounding decides how many steps there are up to a singularity
        assert found.stats.steps_accepted == expected.stats.steps_accepted
        assert found.stats.steps_rejected == expected.stats.steps_rejected
    assert (found.ys is None) == (expected.ys is None)
    if expected.ys is not None:
        torch.testing.assert_close(found.ys, expected.ys, rtol=1e-9, atol=0.0, equal_nan=True)


@STEPPING
def test_a_step_that_may_not_be_shorter(stepping: str, net: Net, tape: Taped) -> None:
    options: dict[str, Any] = {"controller": ic.PID(min_step=0.2), "rtol": 1e-9, "throw": False}
    found, expected = (
        ic.solve(net, start(), 0.0, 2.0, solver="bosh3", stepping=stepping, compile=way, **options)
        for way in (True, False)
    )
    assert found.status is expected.status is ic.Status.STEP_UNDERFLOW
    assert found.stats.steps_rejected == expected.stats.steps_rejected
    assert found.t_end == expected.t_end


def test_a_lost_sample_spoils_no_gradient(tape: Taped) -> None:
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return rate * y * y

    y0 = torch.tensor([[1.0], [0.1], [-0.5]], dtype=torch.float64)
    found = by_graphs(
        field, y0, 0.0, 2.0, rtol=1e-6, atol=1e-8,
        stepping="per_sample", throw=False,
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(found.ys[-1, 1:].sum(), rate)
    ends = y0[1:] / (1 - 2 * y0[1:])
    assert off(found.ys[-1, 1:], ends) <= 1e-4
    assert off(gradient, (2 * ends.square()).sum()) <= 1e-3


@pytest.mark.parametrize("stepping", ["joint", "per_sample"])
def test_what_cannot_be_captured(
    stepping: str, monkeypatch: pytest.MonkeyPatch, tape: Taped
) -> None:
    """A warning says so once, and the answer is there nevertheless."""

    def refuses(body: Callable[[], None]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -2 * y if stepping == "joint" else -y * 2

    with monkeypatch.context() as patch:
        patch.setattr(tape, "record", refuses)
        with pytest.warns(ic.CompileWarning, match="cannot be captured"):
            found = by_graphs(field, start(), 0.0, 1.0, stepping=stepping)
    assert off(found.ys[-1], start() * math.exp(-2)) <= 1e-3


@pytest.mark.parametrize(
    "options",
    [{"save": ic.SaveAt(dense=True)}, {"save": ic.SaveAt(steps=True)}],
    ids=["dense", "steps"],
)
def test_what_needs_the_host_at_every_step(options: dict[str, Any], tape: Taped) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return -y

    with pytest.warns(ic.CompileWarning, match="need the host at every step"):
        ic.solve(field, start(), 0.0, 1.0, compile=True, **options)


def test_progress(net: Net, tape: Taped, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []

    @contextlib.contextmanager
    def bar(wanted: bool, t0: float, t1: float) -> Iterator[Callable[[float], None]]:
        yield told.append

    monkeypatch.setattr(_solve, "progress_bar", bar)
    found = by_graphs(net, start(), 0.0, 2.0, rtol=1e-7)
    assert found.stats.steps_accepted > 64
    assert len(told) > 1
    assert told == sorted(told)
    assert told[-1] == 2.0
