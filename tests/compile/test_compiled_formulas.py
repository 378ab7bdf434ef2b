"""What is traced computes what the eager solve computes, for every kind of solve.

The graphs are run as they are, so that many kinds can be tried; `test_compiled_solves.py` runs
some of them through the compiler.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.compile.tracing import traces_so_far

from .compile_cases import Counting, answers, same, states

pytestmark = pytest.mark.usefixtures("stepwise")

TIMES = ic.SaveAt(ts=[0.0, 0.2, 0.21, 0.22, 0.7, 1.0])
SAVES = {
    "t1": ic.SaveAt(),
    "t0": ic.SaveAt(t0=True, t1=True),
    "ts": TIMES,
    "steps": ic.SaveAt(steps=True),
    "dense": ic.SaveAt(dense=True),
}

BOSH3 = {"solver": "bosh3"}
SHORT = {"solver": "midpoint", "dt0": 0.1, "controller": ic.Constant()}
"""Quick to trace, where it is not the method that is tried."""


def alike(field: Any, y0: Any, watched: Any = (), **options: Any) -> None:
    """A compiled solve and an eager one agree to rounding, and in their statistics.

    By bosh3 unless told otherwise: its four stages are quicker to trace than the default's seven.
    """
    options.setdefault("solver", "bosh3")
    eager, before = answers(field, y0, watched, **options)
    fast, after = answers(field, y0, watched, compile=True, **options)
    same(eager, fast)
    assert (before.steps_accepted, before.steps_rejected) == (
        after.steps_accepted,
        after.steps_rejected,
    )
    if not options.get("grad", True):  # else eager steps evaluate the field once more to watch it
        assert before.nfe_forward == after.nfe_forward


@pytest.mark.parametrize(
    ("save", "batch"), [("t0", 3), ("steps", 3), ("dense", 3), ("ts", 1), ("ts", 3)]
)
def test_saving(save: str, batch: int) -> None:
    field = Counting()
    alike(field, states(batch, 2), list(field.parameters()), save=SAVES[save])


@pytest.mark.parametrize(
    "solver",
    ["bosh3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dop853", "vern7"))],
)
def test_adaptive_methods(solver: str) -> None:
    field = Counting()
    y0 = states(3, 2)
    options = {"solver": solver, "rtol": 1e-6, "atol": 1e-7}
    alike(field, y0, list(field.parameters()), **options)


@pytest.mark.parametrize("solver", ["rk4", "tsit5"])
def test_constant_steps(solver: str) -> None:
    field = Counting()
    options = {"solver": solver, "dt0": 0.13, "controller": ic.Constant()}
    alike(field, states(3, 2), list(field.parameters()), **options)
    alike(field, states(3, 2), save=SAVES["ts"], **options)


def test_both_ways_in_time_and_steps_refused() -> None:
    """A stiff patch makes the controller refuse steps."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -y * (1 + 200 * torch.exp(-(((t - 0.5) / 0.02) ** 2)))

    y0 = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    for t0, t1 in ((0.0, 1.0), (1.0, 0.0)):
        sols = [ic.solve(field, y0, t0, t1, compile=fast, **BOSH3) for fast in (False, True)]
        assert sols[0].stats.steps_rejected == sols[1].stats.steps_rejected > 0
        torch.testing.assert_close(sols[0].ys, sols[1].ys, rtol=1e-10, atol=0)


def test_a_structure_as_state() -> None:
    net = Counting()

    def field(t: Tensor, state: dict[str, Any]) -> dict[str, Any]:
        force = -state["x"] + net(t, state["x"])
        return {"x": state["v"], "v": force, "w": [force.square().sum(-1)]}

    def start(batch: int) -> dict[str, Any]:
        x, v = states(2, batch, 2)
        return {"x": x, "v": v, "w": [torch.zeros(batch, dtype=torch.float64)]}

    for batch in (3, 7):
        alike(field, start(batch), list(net.parameters()), **SHORT)
        alike(field, start(batch), list(net.parameters()), save=TIMES, **SHORT)


def test_a_state_without_a_batch() -> None:
    def pendulum(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], -torch.sin(y[0])])

    alike(pendulum, torch.tensor([1.0, 0.5], dtype=torch.float64))


def test_arguments_of_the_size_of_the_batch_follow_it(interpreted: list[str]) -> None:
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def field(t: Tensor, y: Tensor, context: Tensor, scale: Tensor, power: float) -> Tensor:
        return torch.tanh(y + context) * scale**power

    for batch in (6, 9, 2):
        context = states(batch, 2).requires_grad_()
        options = {"args": (context, scale, 2.0)}
        alike(field, states(batch, 2), [context, scale], **options)
    assert len(interpreted) == 3


@pytest.mark.parametrize("norm", ["rms", "max_rms"])
def test_norms(norm: str) -> None:
    field = Counting()
    # One sample is much larger than the others: the two norms then choose other steps.
    y0 = torch.cat([torch.zeros(9, 2), 20 * torch.ones(1, 2)]).double()
    alike(field, y0, norm=norm)


def test_tolerances_as_vectors() -> None:
    field = Counting()
    alike(field, states(4, 2), rtol=torch.tensor([1e-3, 1e-6], dtype=torch.float64), atol=1e-7)


def test_a_field_that_takes_gradients_itself() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            z = y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(z.pow(4).sum() / 4, z)
        return -slope

    alike(field, states(4, 2), grad=False)


def test_a_divergence() -> None:
    """The field of a flow: vjps inside of it, and gradients through them."""
    net = Counting()

    def field(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        velocity, pull = torch.func.vjp(lambda z: net(t, z), state[0])
        eye = torch.eye(2, dtype=velocity.dtype)
        rows = [pull(eye[i].expand_as(velocity))[0][:, i] for i in range(2)]
        return velocity, -(rows[0] + rows[1])

    for batch in (5, 64):
        alike(field, (states(batch, 2), states(batch)), list(net.parameters()), solver="heuneuler")


def test_a_flow_whose_dynamics_are_made_anew_for_every_solve(interpreted: list[str]) -> None:
    flow = ic.nn.CNF(ic.nn.MLPField(2, hidden=8), 2).double()
    points = states(6, 2)

    def answer(fast: bool) -> list[Tensor]:
        flow.compiled = fast
        density = flow.log_prob(points)
        return [density.detach(), *torch.autograd.grad(density.sum(), list(flow.parameters()))]

    plain = answer(False)
    same(plain, answer(True))
    same(plain, answer(True))
    assert len(interpreted) == 3


def test_tied_weights_get_one_gradient() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(2, 2, dtype=torch.float64)
            self.other = nn.Linear(2, 2, dtype=torch.float64)
            self.other.weight = self.one.weight

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.other(torch.tanh(self.one(y)))

    field = Tied()
    alike(field, states(4, 2), list(field.parameters()))


def test_a_tensor_computed_before_the_solve_hands_its_gradient_on() -> None:
    weight = torch.randn(2, dtype=torch.float64, requires_grad=True)
    y0 = states(3, 2)

    def gradient(fast: bool) -> Tensor:
        encoded = weight.exp()
        sol = ic.solve(lambda t, y: -y * encoded * weight, y0, 0.0, 1.0, compile=fast, **BOSH3)
        (found,) = torch.autograd.grad(sol.ys.sum(), weight)
        return found

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-12, atol=1e-14)


def test_another_batch_and_other_weights_need_no_new_trace(interpreted: list[str]) -> None:
    field = Counting()
    answers(field, states(3, 2), list(field.parameters()), compile=True, **BOSH3)
    before, made = traces_so_far(), list(interpreted)
    for batch in (2, 5, 100):
        with torch.no_grad():
            for parameter in field.parameters():
                parameter.mul_(0.9)
        alike(field, states(batch, 2), list(field.parameters()))
    assert traces_so_far() == before
    assert interpreted == made


def test_new_functions_of_one_code_share_a_trace(interpreted: list[str]) -> None:
    """A lambda that is written in a training loop is a new object at every turn of it."""
    net = Counting()
    for _ in range(3):
        answers(lambda t, y: net(t, y) * 2, states(3, 2), compile=True, **BOSH3)
    assert len(interpreted) == 3


def test_a_changed_number_is_seen(interpreted: list[str]) -> None:
    class Scaled(Counting):
        scale = 1.0

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return super().forward(t, y) * self.scale

    field = Scaled()
    alike(field, states(3, 2), **SHORT)
    field.scale = 2.0
    alike(field, states(3, 2), **SHORT)
    field.net[1] = nn.Softplus()
    alike(field, states(3, 2), **SHORT)


def test_a_counter_is_left_as_it_was() -> None:
    field = Counting()
    field.last = torch.zeros(2)
    answers(field, states(3, 2))
    counted, last = field.nfe, field.last = field.nfe, torch.ones(2)
    answers(field, states(3, 2), compile=True, **BOSH3)
    answers(field, states(3, 2), compile=True, save=TIMES, **BOSH3)  # traced again
    assert field.nfe == counted > 0
    assert field.last is last


def test_compiled_first_in_inference_mode() -> None:
    """What is kept of such a solve serves a training step."""
    field = Counting()
    with torch.inference_mode():
        ic.solve(field, states(3, 2), 0.0, 1.0, compile=True, save=TIMES, **BOSH3)
    alike(field, states(3, 2), list(field.parameters()), save=TIMES)


def test_failures_have_the_same_status() -> None:
    y0 = torch.ones(3, 2)
    for field, status in (
        (lambda t, y: y * y * 5, ic.Status.STEP_UNDERFLOW),
        (lambda t, y: torch.sqrt(y - 2), ic.Status.NON_FINITE),
        (lambda t, y: torch.where(t > 0.5, torch.nan, 1.0) * y, ic.Status.NON_FINITE),
    ):
        found = [
            ic.solve(field, y0, 0.0, 1.0, throw=False, compile=fast, **BOSH3)
            for fast in (False, True)
        ]
        assert found[0].status == found[1].status
        assert found[0].failed_samples == found[1].failed_samples
        del status


def test_explaining_a_compiled_solve() -> None:
    field = Counting()
    plain, fast = (
        ic.solve(
            field, torch.ones(3, 2, dtype=torch.float64), 0.0, 1.0, compile=compile, **BOSH3
        ).explain()
        for compile in (False, True)
    )
    assert plain.steps == fast.steps
    assert plain.rejections == fast.rejections
    assert plain.components == fast.components


def test_a_part_that_was_replaced_is_seen() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2, dtype=torch.float64)
            self.functions = [torch.tanh, torch.sin]

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.functions[1](self.functions[0](self.linear(y)))

    field = Listed()
    alike(field, states(3, 2), **SHORT)
    field.functions[1] = torch.cos
    alike(field, states(3, 2), **SHORT)
    field.linear.bias = None
    alike(field, states(3, 2), **SHORT)


@pytest.mark.slow
def test_fields_of_one_class_and_many_sizes_are_not_one_that_changes(
    monkeypatch: pytest.MonkeyPatch, interpreted: list[str]
) -> None:
    from isocline.compile import kinds

    monkeypatch.setattr(kinds, "_MAX_KINDS", 2)
    with torch.no_grad():
        for width in (3, 4, 5):
            ic.solve(Counting(width=width), states(2, 2), 0.0, 1.0, compile=True)
    assert len(interpreted) == 6


def test_weights_laid_out_otherwise_are_traced_anew(interpreted: list[str]) -> None:
    """Compiled code reads memory as it lies: it would misread a transposed weight."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(states(2, 2))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return y @ self.weight

    field = Linear()
    with torch.no_grad():
        ic.solve(field, states(3, 2), 0.0, 1.0, compile=True, **BOSH3)
        assert len(interpreted) == 2
        field.weight = nn.Parameter(states(2, 2).t())
        ic.solve(field, states(3, 2), 0.0, 1.0, compile=True, **BOSH3)
        assert len(interpreted) == 4
        field.weight = nn.Parameter(states(2, 2))
        ic.solve(field, states(5, 2), 0.0, 1.0, compile=True, **BOSH3)
        assert len(interpreted) == 4


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_many_cotangents_at_once_and_second_derivatives(compiled: bool) -> None:
    """Compiled steps cannot take either: the method proper takes the steps again."""
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([0.8, 0.5], dtype=torch.float64)
    ys = ic.solve(lambda t, y: -weight * y**2, y0, 0.0, 1.0, compile=compiled, **SHORT).ys[-1]
    eye = torch.eye(2, dtype=torch.float64)
    (rows,) = torch.autograd.grad(ys, weight, eye, is_grads_batched=True, retain_graph=True)
    exact = -((y0 / (1 + 0.7 * y0)) ** 2)  # of y0 / (1 + w y0)
    torch.testing.assert_close(rows, exact, rtol=1e-2, atol=0)
    (slope,) = torch.autograd.grad(ys.sum(), weight, create_graph=True)
    (second,) = torch.autograd.grad(slope, weight)
    torch.testing.assert_close(second, (2 * (y0 / (1 + 0.7 * y0)) ** 3).sum(), rtol=1e-2, atol=0)
