"""Coefficients as parameters: the same steps as the table's, and gradients that are right."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.problem import PackedField
from isocline.solvers import TrainableRungeKutta, TrainableTableau
from isocline.solvers.tableaus import TABLEAUS
from isocline.state import Packing

from ..known import OneBuffer, Watched, knotted, swing, swung, unknotted

EVERY = pytest.mark.parametrize("name", ["euler", "ralston", "rk4", "bosh3", "tsit5", "dop853"])
ADJOINTS = {
    "direct": ic.Direct(),
    "checkpointed": ic.Checkpointed(),
    "replayed": ic.Checkpointed(graph_budget=0),
    "two slots": ic.Checkpointed(slots=2),
}


def trainable(name: str) -> TrainableRungeKutta:
    return TrainableRungeKutta(TrainableTableau(TABLEAUS[name]))


def moved(name: str, by: float = 0.01) -> TrainableRungeKutta:
    """With other coefficients, and every node well within the step."""
    solver = trainable(name)
    with torch.no_grad():
        for i, parameter in enumerate(solver.tableau.parameters()):
            steps = torch.arange(len(parameter), dtype=torch.float64)
            parameter.mul_(0.9).add_(by * torch.sin(1 + 3 * i + steps))
    return solver


def constant(solver: Any, count: int = 4, **options: Any) -> dict[str, Any]:
    return {"solver": solver, "controller": ic.Constant(), "dt0": 1.5 / count, **options}


# --- before training -------------------------------------------------------------------------


@EVERY
def test_untrained_it_steps_as_its_table(name: str) -> None:
    y0, save = unknotted(0.3), ic.SaveAt(steps=True)
    with torch.no_grad():
        ours = ic.solve(knotted, y0, 0.3, 1.8, save=save, **constant(trainable(name)))
        table = ic.solve(knotted, y0, 0.3, 1.8, save=save, **constant(name))
    torch.testing.assert_close(ours.ys, table.ys, rtol=1e-13, atol=1e-13)
    assert ours.stats.nfe_forward == table.stats.nfe_forward


@pytest.mark.parametrize("name", [name for name in TABLEAUS if TABLEAUS[name].adaptive])
def test_untrained_its_error_estimate_is_that_of_its_table(name: str) -> None:
    packing = Packing.of(unknotted(0.3))
    field, y = PackedField(knotted, packing), unknotted(0.3).reshape(-1)
    solver = trainable(name)
    steppers: list[Any] = [s.bind(field, packing) for s in (solver, ic.solvers.by_name(name))]
    ours, table = (stepper.step(0.3, 0.9, y, None) for stepper in steppers)
    for one, other in zip(ours.errors, table.errors, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)
    assert steppers[0].combine is steppers[1].combine
    declared = ic.solvers.by_name(name)
    assert solver.order == declared.order
    assert solver.error_order == declared.error_order
    assert solver.adaptive
    assert solver.evaluations_per_step == declared.evaluations_per_step


@EVERY
def test_output_between_steps_meets_the_steps(name: str) -> None:
    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    sol = ic.solve(swing, y0, 0, 1.5, save=ic.SaveAt(dense=True), **constant(moved(name)))
    steps = ic.solve(swing, y0, 0, 1.5, save=ic.SaveAt(steps=True), **constant(moved(name)))
    torch.testing.assert_close(sol(steps.ts), steps.ys, rtol=0, atol=1e-14)
    beside = torch.tensor([0.375 - 1e-7, 0.375 + 1e-7], dtype=torch.float64)
    before, after = sol(beside)
    slope = swing(torch.tensor(0.375, dtype=torch.float64), steps.ys[0])
    torch.testing.assert_close((after - before) / 2e-7, slope, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["tsit5", "bosh3"])
def test_adaptive_steps_hold_the_tolerance(name: str) -> None:
    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    sol = ic.solve(swing, y0, 0, 5, solver=trainable(name), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(sol.ys[-1], swung(5.0), rtol=0, atol=2e-6)
    assert sol.stats.steps_accepted > 20


# --- the contract ----------------------------------------------------------------------------


@EVERY
def test_with_a_graph_and_without_steps_have_the_same_bits(name: str) -> None:
    save = ic.SaveAt(ts=[0.4, 0.77, 1.8])
    found = []
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            found.append(
                ic.solve(knotted, unknotted(0.3), 0.3, 1.8, save=save, **constant(moved(name))).ys
            )
    assert torch.equal(*found)


@EVERY
@pytest.mark.parametrize("way", [1, -1])
def test_the_field_is_called_within_the_step_however_wild_the_nodes(name: str, way: int) -> None:
    solver = moved(name, by=0.7)
    field = Watched(lambda t, y: torch.cos(t) * y)
    t0, t1 = (0.1, 0.7) if way > 0 else (0.7, 0.1)
    ic.solve(field, torch.ones(2), t0, t1, save=ic.SaveAt(dense=True), **constant(solver, 7))
    low, high = torch.tensor([0.1, 0.7]).tolist()
    assert low <= min(field.values)
    assert max(field.values) <= high


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_no_stage_looks_beyond_its_step(grad: bool) -> None:
    """Where t and t_next differ in size, t + (t_next - t) is not always t_next."""
    field = Watched(lambda t, y: 0 * y)
    y = torch.ones(1, dtype=torch.float64)
    packing = Packing.of(y)
    stepper = trainable("rk4").bind(PackedField(field, packing), packing)
    ends = torch.randn(100, 2, dtype=torch.float64) * 10.0 ** torch.randint(-6, 3, (100, 2))
    with torch.set_grad_enabled(grad):
        for t, t_next in ends.tolist():
            field.values.clear()
            stepper.step(t, t_next, y, None).dense()
            low, high = sorted((t, t_next))
            assert low <= min(field.values)
            assert max(field.values) <= high


def test_a_field_with_one_output_buffer_gives_the_same_bits() -> None:
    def run(field: Callable[..., Tensor]) -> Tensor:
        with torch.no_grad():
            options = constant(moved("tsit5"), save=ic.SaveAt(dense=True))
            sol = ic.solve(field, torch.eye(2, dtype=torch.float64), 0, 1.5, **options)
        return sol(torch.linspace(0, 1.5, 7, dtype=torch.float64))

    assert torch.equal(run(swing), run(OneBuffer(swing)))


# --- gradients -------------------------------------------------------------------------------


def loss_of(
    solver: TrainableRungeKutta, adjoint: Any, dense: bool = False, **options: Any
) -> Tensor:
    y0 = torch.tensor([0.3, -1.2], dtype=torch.float64)
    ts = torch.tensor([0.2, 0.9, 1.5], dtype=torch.float64)
    save = ic.SaveAt(dense=True) if dense else ic.SaveAt(ts=ts)
    arguments = {**constant(solver), **options}
    sol = ic.solve(
        lambda t, y: torch.cos(3 * t) * torch.sin(y) - 0.5 * y.flip(0),
        y0, 0.0, 1.5, save=save, adjoint=adjoint, **arguments,
    )  # fmt: skip
    rows = sol(ts) if dense else sol.ys
    return (rows * torch.tensor([[1.0, -2.0], [0.5, 1.0], [3.0, 0.7]])).sum()


def gradients(solver: TrainableRungeKutta, adjoint: Any, **options: Any) -> list[Tensor]:
    loss = loss_of(solver, adjoint, **options)
    wanted = [parameter for parameter in solver.tableau.parameters() if len(parameter)]
    return list(torch.autograd.grad(loss, wanted))


@EVERY
@pytest.mark.parametrize("adjoint", ADJOINTS.values(), ids=ADJOINTS.keys())
def test_gradients_of_coefficients_are_those_of_finite_differences(name: str, adjoint: Any) -> None:
    solver = moved(name)
    found = gradients(solver, adjoint)
    wanted = [parameter for parameter in solver.tableau.parameters() if len(parameter)]
    for parameter, gradient in zip(wanted, found, strict=True):
        for i in range(0, len(parameter), 1 + len(parameter) // 6):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[i] += sign * 1e-6
                    values.append(loss_of(solver, adjoint).item())
                    parameter[i] -= sign * 1e-6
            assert gradient[i].item() == pytest.approx((values[0] - values[1]) / 2e-6, abs=2e-8)


@pytest.mark.parametrize("dense", [False, True], ids=["ts", "dense"])
@pytest.mark.parametrize("adjoint", list(ADJOINTS)[1:])
@pytest.mark.parametrize("name", ["rk4", "bosh3"])
def test_adjoints_agree(name: str, adjoint: str, dense: bool) -> None:
    want = gradients(moved(name), ic.Direct(), dense=dense)
    found = gradients(moved(name), ADJOINTS[adjoint], dense=dense)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-13)


def test_adaptive_solves_have_gradients_too() -> None:
    options = {"controller": ic.PID(), "rtol": 1e-3, "atol": 1e-4}
    want = gradients(moved("tsit5"), ic.Direct(), **options)
    found = gradients(moved("tsit5"), ic.Checkpointed(), **options)
    torch.testing.assert_close(found, want, rtol=1e-11, atol=1e-13)
    assert all(gradient.abs().max() > 1e-9 for gradient in want)


def test_a_node_held_at_the_end_gets_no_gradient_from_the_time() -> None:
    # y' = t^2 with the second node beyond the end: it stays there, whatever a does.
    solver = trainable("heun")
    with torch.no_grad():
        solver.tableau.a.fill_(1.4)
    y0 = torch.zeros(1, dtype=torch.float64)
    sol = ic.solve(lambda t, y: t**2 + 0 * y, y0, 0.0, 1.0, **constant(solver, 1.5))
    assert sol.ys.item() == pytest.approx(0.5)
    (gradient,) = torch.autograd.grad(sol.ys.sum(), solver.tableau.a)
    assert gradient.item() == 0


def test_backsolve_refuses_coefficients_that_want_a_gradient() -> None:
    solver = trainable("rk4")
    with pytest.raises(ic.GradientError, match="the solver has parameters of its own"):
        loss_of(solver, ic.Backsolve())
    solver.tableau.requires_grad_(False)
    assert not loss_of(solver, ic.Backsolve()).requires_grad


def test_frozen_coefficients_get_no_gradient_and_parameters_of_the_field_still_do() -> None:
    solver = moved("rk4")
    solver.tableau.requires_grad_(False)
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(2, dtype=torch.float64)
    sol = ic.solve(lambda t, y: -rate * y, y0, 0.0, 1.5, **constant(solver))
    sol.ys.sum().backward()
    assert rate.grad is not None
    assert solver.tableau.a.grad is None


def test_a_coefficient_changed_before_the_backward_pass_is_an_error() -> None:
    solver = moved("rk4")
    loss = loss_of(solver, ic.Checkpointed(graph_budget=0))
    with torch.no_grad():
        solver.tableau.b.add_(0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- what training keeps, and what it is for -------------------------------------------------


def test_weights_sum_to_one_whatever_the_parameters_are() -> None:
    tableau = TrainableTableau(TABLEAUS["rk4"])
    with torch.no_grad():
        tableau.b.copy_(torch.tensor([3.0, -1.0, 2.0, 7.0]))
    rows, b, nodes = tableau()
    assert b.sum().item() == pytest.approx(1, abs=1e-15)
    assert [row.numel() for row in rows] == [0, 1, 2, 3]
    assert nodes.tolist() == [0.0, 0.5, 0.5, 1.0]
    y0 = torch.zeros(1, dtype=torch.float64)
    options = constant(TrainableRungeKutta(tableau))
    sol = ic.solve(lambda t, y: torch.ones_like(y), y0, 0, 1.5, **options)
    assert sol.ys.item() == pytest.approx(1.5)


def test_training_finds_the_better_method_for_a_family_of_problems() -> None:
    # On y' = lambda y alone, two stages of order 2 leave one coefficient open, that of z^2, which
    # can be bent to the range of lambda h at hand.
    rates = -torch.linspace(0.2, 1.6, 15, dtype=torch.float64)
    solver = trainable("midpoint")
    optimiser = torch.optim.LBFGS(solver.tableau.parameters(), max_iter=40)

    def error() -> Tensor:
        options = {"solver": solver, "controller": ic.Constant(), "dt0": 1.0}
        y0 = torch.ones_like(rates)
        sol = ic.solve(lambda t, y: rates * y, y0, 0.0, 1.0, **options)
        return (sol.ys[-1] - rates.exp()).square().mean()

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = error()
        loss.backward()
        return loss

    before = error().item()
    optimiser.step(closure)
    after = error().item()
    _, b, _ = solver.tableau()
    # Least squares over the one coefficient: 1 + z + c z^2 against e^z.
    z = rates
    best = ((z.exp() - 1 - z) * z**2).sum() / (z**4).sum()
    assert (b[1] * solver.tableau.a[0]).item() == pytest.approx(best.item(), rel=1e-4)
    assert after < before / 15


@EVERY
def test_a_trained_table_becomes_a_plain_one(name: str) -> None:
    solver = moved(name)
    table = solver.tableau.to_tableau("Learnt")
    assert (table.name, table.order, table.fsal) == ("Learnt", 1, TABLEAUS[name].fsal)
    assert sum(table.b) == 1
    plain = ic.solvers.explicit.explicit(table)()
    y0, save = unknotted(0.3), ic.SaveAt(ts=[0.5, 0.9, 1.8])
    with torch.no_grad():
        ours = ic.solve(knotted, y0, 0.3, 1.8, save=save, **constant(solver))
        theirs = ic.solve(knotted, y0, 0.3, 1.8, save=save, **constant(plain))
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-12, atol=1e-12)
    if table.adaptive:
        sums = [abs(sum(row)) for row in table.error]
        assert sums == [0] * len(sums)


def test_a_table_with_a_node_outside_is_refused() -> None:
    tableau = TrainableTableau(TABLEAUS["heun"])
    with torch.no_grad():
        tableau.a.fill_(1.4)
    with pytest.raises(ValueError, match=r"node 1, 1\.4, must lie in"):
        tableau.to_tableau("Learnt")


def test_coefficients_travel_in_a_state_dict() -> None:
    solver, fresh = moved("tsit5"), trainable("tsit5")
    fresh.tableau.load_state_dict(solver.tableau.state_dict())
    assert torch.equal(fresh.tableau.a, solver.tableau.a)
    twin = copy.deepcopy(solver)
    assert torch.equal(twin.tableau.b, solver.tableau.b)
    assert repr(solver) == "TrainableRungeKutta(tableau=TrainableTableau(Tsit5, stages=6))"
    assert math.isclose(float(sum(TABLEAUS["tsit5"].b)), 1)
