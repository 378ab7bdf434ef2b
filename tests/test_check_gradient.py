"""`check_gradient` measures what it says, of any input, and leaves no trace."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile

import isocline as ic
from isocline.diagnosis.costs import peak_bytes

EPS = torch.finfo(torch.float64).eps


class _Scaled(torch.autograd.Function):
    """The identity, whose gradient is too large by a factor."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        return cotangents[0] * ctx.factor, None


@dataclass(frozen=True)
class Wrong:
    """The exact gradient times a factor."""

    factor: float = 1.01

    def run(self, problem: Any, plan: Any, stats: Any) -> Any:
        found = ic.Direct().run(problem, plan, stats)
        found.rows = _Scaled.apply(found.rows, self.factor)
        return found

    def keeps(self, steps: int, state: int, step: int) -> tuple[int, int]:
        return 0, 0


@dataclass(frozen=True)
class Failing:
    """An adjoint that has no gradient to give."""

    error: type[Exception] | None = None

    def run(self, problem: Any, plan: Any, stats: Any) -> Any:
        if self.error is not None:
            raise self.error("not this one")
        with torch.no_grad():
            return ic.Direct().run(problem, plan, stats)

    def keeps(self, steps: int, state: int, step: int) -> tuple[int, int]:
        return 0, 0


@dataclass(frozen=True)
class Drifting:
    """An adjoint that warns."""

    def run(self, problem: Any, plan: Any, stats: Any) -> Any:
        warnings.warn("the reverse solve drifts", UserWarning, stacklevel=2)
        return ic.Direct().run(problem, plan, stats)

    def keeps(self, steps: int, state: int, step: int) -> tuple[int, int]:
        return 0, 0


def start(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)


def one(report: ic.GradientReport) -> ic.diagnosis.GradientRow:
    (row,) = report.rows
    return row


@pytest.mark.parametrize("factor", [1.01, 0.5, -1.0])
def test_a_gradient_that_is_off_by_a_known_factor_is_off_by_that(factor: float) -> None:
    net = network()
    report = ic.check_gradient(
        lambda t, y: net(y), start(3, 2), 0.0, 1.0, adjoint=Wrong(factor), repeats=1
    )
    row = one(report)
    expected = pytest.approx(abs(factor - 1.0), rel=1e-9)
    assert row.error == expected
    assert set(row.errors) == {"y0", "net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"}
    assert all(error == expected for error in row.errors.values())
    assert row.true_error == pytest.approx(abs(factor - 1.0), rel=1e-3)
    assert report.best is None
    assert "more than the solve's own error" in report.advice


def test_backsolve_is_found_out_where_the_reverse_flow_is_unstable() -> None:
    report = ic.check_gradient(
        lambda t, y: -100 * y**3, torch.ones(1, dtype=torch.float64), 0.0, 5.0,
        adjoints=[ic.Backsolve(), ic.Checkpointed()], repeats=1,
    )  # fmt: skip
    backsolve, checkpointed = report.rows
    assert backsolve.error is not None
    assert checkpointed.error is not None
    assert backsolve.error > 1e-2
    assert checkpointed.error < 1e-14
    assert report.best is checkpointed
    assert "Backsolve() is off by" in report.advice


def test_the_solves_own_error_is_the_one_of_the_closed_form() -> None:
    """y' = a y: dy(1)/da = y0 e^a, by hand."""
    rate = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(1, dtype=torch.float64)
    report = ic.check_gradient(
        lambda t, y: rate * y, y0, 0.0, 1.0, solver="rk4", dt0=0.25, repeats=1,
        loss=lambda sol: sol.ys.sum(),
    )  # fmt: skip
    ys = ic.solve(lambda t, y: rate * y, y0, 0.0, 1.0, solver="rk4", dt0=0.25).ys
    (gradient,) = torch.autograd.grad(ys.sum(), [rate])
    exact = rate.detach().exp()
    off = float((gradient - exact).abs() / exact)
    assert off > 1e-5
    assert report.own_errors["rate"] == pytest.approx(off, rel=1e-5)
    assert one(report).true_errors["rate"] == pytest.approx(off, rel=1e-5)
    assert report.resolution < 1e-6 * off


def test_a_float32_solve_is_held_against_float64() -> None:
    net = network(torch.float32)
    report = ic.check_gradient(
        lambda t, y: net(y), start(3, 2, dtype=torch.float32), 0.0, 1.0, rtol=1e-3, repeats=1
    )
    assert "float64" in report.reference
    assert report.resolution < 1e-7
    assert report.dtype is torch.float32


def test_a_field_of_one_dtype_is_held_against_that_and_says_so() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        if y.dtype is not torch.float32:
            raise RuntimeError("float32 only")
        return -y

    report = ic.check_gradient(field, start(2, dtype=torch.float32), 0.0, 1.0, repeats=1)
    assert "does not run in float64" in report.reference


def test_every_adjoint_has_a_row_and_the_exact_ones_are_exact() -> None:
    net = network()
    report = ic.check_gradient(
        lambda t, y: net(y), start(3, 2), 0.0, 1.0, adjoints="all", repeats=1
    )
    rows = {row.name: row for row in report.rows}
    exact = ("Checkpointed()", "Checkpointed(slots=8)", "Checkpointed(graph_budget=0)", "Direct()")
    assert report.rows[0].name == "Checkpointed()"
    assert {*exact, "Backsolve()"} <= set(rows)
    for name in exact:
        error = rows[name].error
        assert error is not None
        assert error < 1e3 * EPS
    for row in report.rows:
        assert row.name in str(report)


def test_evaluations_and_steps_are_those_of_a_solve() -> None:
    adjoint = ic.Checkpointed(slots=2)
    y0 = start(2).requires_grad_()
    sol = ic.solve(lambda t, y: y.sin(), y0, 0.0, 3.0, adjoint=adjoint)
    sol.ys.sum().backward()
    row = one(ic.check_gradient(lambda t, y: y.sin(), y0, 0.0, 3.0, adjoint=adjoint, repeats=1))
    assert row.steps == sol.stats.steps_accepted
    assert row.evaluations == (sol.stats.nfe_forward, sol.stats.nfe_backward)
    assert row.seconds is not None
    assert row.seconds > 0


def test_memory_grows_with_the_steps_for_direct_and_not_for_one_slot() -> None:
    y0 = start(1000)

    def most(adjoint: Any, steps: int) -> float:
        report = ic.check_gradient(
            lambda t, y: (0.3 * y).cos(), y0, 0.0, 1.0, adjoint=adjoint, solver="rk4",
            dt0=1 / steps, repeats=1,
        )  # fmt: skip
        memory = one(report).memory
        assert memory is not None
        return memory / 8000  # in states

    assert most(ic.Direct(), 30) > most(ic.Direct(), 10) + 60
    assert most(ic.Checkpointed(slots=1), 30) <= most(ic.Checkpointed(slots=1), 10) + 1.5


def test_peak_bytes_are_those_of_the_full_profiler() -> None:
    def work() -> None:
        x = torch.ones(5000, requires_grad=True)
        (x.exp().sin() * x).sum().backward()

    with profile(profile_memory=True) as profiler:
        work()
    events: list[Any] = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    assert peak_bytes(work) == most >= 3 * 20_000


def test_peak_bytes_are_unknown_while_the_user_profiles() -> None:
    with profile(profile_memory=True):
        assert peak_bytes(lambda: torch.ones(10)) is None


class Counting(nn.Module):
    """A field with counters, a running mean and weights: all that a call could disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2, dtype=torch.float64)
        self.register_buffer("calls", torch.zeros(()))
        self.evaluations = 0
        self.times: list[float] = []

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.evaluations += 1
        self.calls += 1
        self.times.append(float(t))
        return torch.tanh(self.inner(y))


class Uncopied(Counting):
    """The same with a lock, which cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize("kind", [Counting, Uncopied])
def test_nothing_is_disturbed(kind: type[Counting]) -> None:
    field = kind().eval()
    y0 = start(3, 2).requires_grad_()
    y0.grad = torch.full_like(y0, 7.0)
    field.inner.weight.grad = torch.full_like(field.inner.weight, 3.0)
    fired: list[Tensor] = []
    field.inner.weight.register_hook(fired.append)
    before = {name: value.clone() for name, value in field.state_dict().items()}
    random = torch.get_rng_state()
    with torch.no_grad():
        report = ic.check_gradient(field, y0, 0.0, 1.0, adjoints="all", repeats=1)
        assert not torch.is_grad_enabled()
    assert report.rows[0].error is not None
    torch.testing.assert_close(field.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert bool((y0.grad == 7.0).all())
    assert bool((field.inner.weight.grad == 3.0).all())
    assert not field.training
    assert not fired
    if kind is Counting:
        assert field.evaluations == 0
        assert field.times == []


@pytest.mark.parametrize("kept", [None, threading.Lock()], ids=["copied", "in_place"])
def test_a_graph_of_the_callers_lives_on(kept: Any) -> None:
    """A weight that a network computed before the solve: its graph is needed afterwards."""
    source = start(2, 2).requires_grad_()
    weight = source.exp()
    y0 = (3.0 * source).sum(0)

    def field(t: Tensor, y: Tensor) -> Tensor:
        assert kept is None or not kept.locked()  # a lock cannot be copied
        return weight @ y + source.sum()

    ic.check_gradient(field, y0, 0.0, 1.0, repeats=1)
    (weight.sum() + y0.sum()).backward()
    torch.testing.assert_close(source.grad, source.detach().exp() + 3.0)


def test_a_random_loss_draws_the_same_numbers_for_every_adjoint() -> None:
    def loss(sol: ic.Solution) -> Tensor:
        return (sol.ys * torch.randn(sol.ys.shape, dtype=torch.float64)).sum()

    row = one(ic.check_gradient(lambda t, y: -y, start(4), 0.0, 1.0, loss=loss, repeats=1))
    assert row.error is not None
    assert row.error < 1e-13


def test_inputs_of_every_kind_have_their_errors() -> None:
    closed = start(2).requires_grad_()
    hyper = start(2).requires_grad_().exp()
    inner = network()
    t0, t1 = (torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (0.0, 1.0))
    ts = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
    drive = start(1).requires_grad_()

    def field(t: Tensor, y: dict[str, Tensor], given: dict[str, Any]) -> dict[str, Tensor]:
        push = given["drive"] * torch.sin(3 * t)
        return {"x": y["v"], "v": inner(y["x"]) * hyper + closed + push}

    report = ic.check_gradient(
        field, {"x": start(3, 2), "v": start(3, 2)}, t0, t1, args=({"drive": drive, "k": 3},),
        save=ic.SaveAt(ts=ts, t1=True), adjoints=[Wrong(), ic.Backsolve(rtol=1e-9, atol=1e-9)],
        rtol=1e-8, atol=1e-8, repeats=1,
    )  # fmt: skip
    wrong, backsolve = report.rows
    parameters = {f"inner.{name}" for name, _ in inner.named_parameters()}
    times = {"t0", "t1", "ts"}
    expected = {"y0", *times, "args[0]['drive']", "closed", "hyper", *parameters}
    assert set(wrong.errors) == expected
    # Every one is scaled, for the factor sits between them all and the loss.
    assert all(error == pytest.approx(0.01, rel=1e-8) for error in wrong.errors.values())
    assert all(error < 1e-5 for error in backsolve.errors.values())
    assert all(error < 1e-4 for error in report.own_errors.values())


class Method:
    """A field that is a method of a plain object."""

    def __init__(self) -> None:
        self.net = network()

    def rate(self, t: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        return scale * self.net(y)


def test_parameters_of_a_method_are_named_by_its_attributes() -> None:
    report = ic.check_gradient(Method().rate, start(2), 0.0, 1.0, repeats=1)
    assert "net.0.weight" in one(report).errors


def test_complex_states_and_dense_output_are_differentiated() -> None:
    y0 = torch.complex(start(2), start(2))
    row = one(
        ic.check_gradient(
            lambda t, y: 1j * y, y0, 0.0, 1.0, save=ic.SaveAt(dense=True), repeats=1,
            adjoint=Wrong(1.0),
        )
    )  # fmt: skip
    assert row.error is not None
    assert row.error < 1e-12


def test_the_time_of_an_event_is_differentiated() -> None:
    """A fall from height 1: t = (2 / g)^(1/2), so the discrete solve errs by rounding alone."""
    gravity = torch.tensor(9.8, dtype=torch.float64, requires_grad=True)

    def fall(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], -gravity * torch.ones_like(y[1])])

    report = ic.check_gradient(
        fall, torch.tensor([1.0, 0.0], dtype=torch.float64), 0.0, float("inf"), dt0=0.1,
        event=lambda t, y: y[0], loss=lambda sol: sol.events[0].t, repeats=1,
    )  # fmt: skip
    assert report.own_errors["gravity"] < 1e-12


def test_an_adjoint_that_fails_is_a_row_that_says_so() -> None:
    report = ic.check_gradient(
        lambda t, y: -y, start(2), 0.0, 1.0, repeats=1,
        adjoints=[Failing(ic.GradientError), Failing(RuntimeError), Failing(), ic.Direct()],
    )  # fmt: skip
    first, second, third, direct = report.rows
    assert first.failure == "GradientError: not this one"
    assert second.failure == "RuntimeError: not this one"
    assert "carries no gradient" in third.failure
    assert all(row.error is None and row.memory is None for row in (first, second, third))
    assert report.best is direct
    assert "not this one" in str(report)


def test_a_warning_stands_in_the_row() -> None:
    report = ic.check_gradient(lambda t, y: -y, start(2), 0.0, 1.0, adjoint=Drifting(), repeats=1)
    assert one(report).warnings == ("UserWarning: the reverse solve drifts",)
    assert "the reverse solve drifts" in str(report)


def test_where_nothing_works_the_advice_says_that() -> None:
    report = ic.check_gradient(
        lambda t, y: -y, start(2), 0.0, 1.0, adjoint=Failing(RuntimeError), repeats=1
    )
    assert "none of these adjoints" in report.advice


def test_a_black_box_is_held_against_the_ode_alone() -> None:
    pytest.importorskip("scipy")
    net = network()
    report = ic.check_gradient(
        lambda t, y: net(y), start(3, 2), 0.0, 1.0, solver="lsoda", adjoints="all", repeats=1
    )
    backsolve = report.best
    assert backsolve is not None
    assert backsolve.name == "Backsolve()"
    assert backsolve.error is None
    assert backsolve.true_error is not None
    assert 0 < backsolve.true_error < 1e-3
    assert report.own_error is None
    assert all(row.failure for row in report.rows if row is not backsolve)


def test_with_every_step_saved_there_is_no_gradient_of_the_ode() -> None:
    report = ic.check_gradient(
        lambda t, y: -y, start(2), 0.0, 1.0, save=ic.SaveAt(steps=True), repeats=1
    )
    assert one(report).error is not None
    assert one(report).true_error is None
    assert report.reference.startswith("none")


def test_trained_coefficients_are_no_inputs_of_the_ode() -> None:
    table = ic.TrainableTableau(ic.solvers.by_name("heun").tableau)
    report = ic.check_gradient(
        lambda t, y: -y, start(2), 0.0, 1.0, dt0=0.1,
        solver=ic.TrainableRungeKutta(table), adjoint=Wrong(), repeats=1,
    )  # fmt: skip
    row = one(report)
    assert len(row.errors) > 1
    assert set(row.true_errors) == {"y0"}


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"field": 3}, "field"),
        ({"adjoint": ic.Direct}, "adjoint"),
        ({"adjoint": 3}, "adjoint"),
        ({"adjoints": "every"}, "adjoints"),
        ({"adjoints": []}, "adjoints"),
        ({"adjoints": ic.Direct()}, "adjoints"),
        ({"adjoints": [ic.Direct]}, "adjoints"),
        ({"loss": 3}, "loss"),
        ({"loss": lambda sol: sol.ys}, "loss"),
        ({"loss": lambda sol: 3.0}, "loss"),
        ({"repeats": 0}, "repeats"),
        ({"repeats": True}, "repeats"),
        ({"throw": False}, "settings"),
        ({"tolerance": 1e-3}, "settings"),
        ({"args": 3}, "args"),
        ({"rtol": -1.0}, "rtol"),
        ({"solver": "tsit"}, "solver"),
        ({"y0": [1.0]}, "y0"),
        ({"t1": float("nan")}, "t1"),
    ],
)
def test_bad_input_is_a_typed_error_that_names_it(changes: dict[str, Any], argument: str) -> None:
    given: dict[str, Any] = {"field": lambda t, y: -y, "y0": start(2), "t0": 0.0, "t1": 1.0}
    given |= changes
    positional = [given.pop(name) for name in ("field", "y0", "t0", "t1")]
    with pytest.raises(ic.InputError) as caught:
        ic.check_gradient(*positional, **given)
    assert caught.value.argument.startswith(argument)


def test_a_field_that_draws_numbers_has_no_gradient_to_check() -> None:
    with pytest.raises(ic.GradientError, match="random"):
        ic.check_gradient(lambda t, y: -y + torch.randn(2), start(2), 0.0, 1.0)


def test_a_solve_that_fails_raises_as_ever() -> None:
    with pytest.raises(ic.MaxStepsError):
        ic.check_gradient(lambda t, y: y.sin(), start(2), 0.0, 1e3, max_steps=3)
