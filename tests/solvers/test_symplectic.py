"""Splitting methods: order conditions in exact arithmetic, symplecticity, and bounded energy."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.problem import PackedField
from isocline.solvers.compositions import COMPOSITIONS, Composition, Stage
from isocline.solvers.symplectic import Splitting
from isocline.state import Packing

from ..known import Watched, order_of

METHODS: tuple[Splitting, ...] = (
    ic.Leapfrog(),
    ic.Yoshida4(),
    ic.Yoshida4(autonomous=True),
    ic.Yoshida6(),
    ic.Yoshida6(autonomous=True),
    ic.KahanLi8(),
)
EVERY = pytest.mark.parametrize("method", METHODS, ids=repr)
TABLES = pytest.mark.parametrize("table", COMPOSITIONS.values(), ids=COMPOSITIONS.keys())

# --- order conditions ------------------------------------------------------------------------

Series = dict[str, Decimal]
"""A power series in letters that do not commute: the coefficient of each word."""


def times_exponential(series: Series, letter: str, amount: Fraction, degree: int) -> Series:
    """The series times exp(amount * letter), to a degree."""
    x = Decimal(amount.numerator) / Decimal(amount.denominator)
    found, term = dict(series), series
    for power in range(1, degree + 1):
        term = {word + letter: c * x / power for word, c in term.items() if len(word) < degree}
        for word, coefficient in term.items():
            found[word] = found.get(word, Decimal(0)) + coefficient
    return found


def defect(stages: tuple[Stage, ...], degree: int, clock: bool) -> float:
    """How far a step is from the exact flow, as exponentials of the parts of the field.

    The flow over h = 1 of the sum of the parts Q (positions move), P (momenta move) and, with
    a clock, T (time moves) is exp(Q + P + T), where every word of n letters has the coefficient
    1 / n!. To have order p is to agree with it in all words of up to p letters.
    """
    with localcontext() as context:
        context.prec = 60
        series: Series = {"": Decimal(1)}
        now = Fraction(0)
        for node, half, weight in stages:
            if clock:
                series = times_exponential(series, "T", node - now, degree)
                now = node
            series = times_exponential(series, "QP"[half], weight, degree)
        if clock:
            series = times_exponential(series, "T", 1 - now, degree)
        words = (
            ("".join(word), Decimal(1) / math.factorial(length))
            for length in range(degree + 1)
            for word in product("QPT" if clock else "QP", repeat=length)
        )
        return float(max(abs(series.get(word, 0) - exact) for word, exact in words))


@EVERY
def test_the_order_is_the_declared_one_and_no_more(method: Splitting) -> None:
    """Positions and momenta alone, as in an autonomous system."""
    assert defect(method.stages, method.order, clock=False) < 1e-26
    assert defect(method.stages, method.order + 1, clock=False) > 1e-7


@pytest.mark.parametrize("method", [ic.Yoshida4(), ic.Yoshida6()], ids=repr)
def test_frozen_stages_keep_the_order_where_time_counts(method: Splitting) -> None:
    assert defect(method.stages, method.order, clock=True) < 1e-26


@EVERY
def test_merged_stages_take_each_rate_at_the_time_of_what_it_depends_on(method: Splitting) -> None:
    """Each half with a clock of its own is a larger autonomous system, split in the same way."""
    composition = method.composition
    for outer in (0, 1):
        clocks = [Fraction(0), Fraction(0)]
        for node, half, weight in composition.merged(outer):
            inside = min(max(clocks[1 - half], Fraction(0)), Fraction(1))
            assert node == (inside if half == outer else clocks[1 - half])
            clocks[half] += weight
        assert clocks == [1, 1]
    assert composition.stays_inside == (composition.name in ("Leapfrog", "KahanLi8"))


@EVERY
def test_every_stage_is_within_the_step(method: Splitting) -> None:
    assert all(0 <= stage.node <= 1 for stage in method.stages)


@TABLES
def test_a_changed_digit_does_not_pass(table: Composition) -> None:
    """One digit more, at several places of each coefficient in turn."""
    for index in range(len(table.leading)):
        for place in (1, 7, 16, 24):
            leading = list(table.leading)
            leading[index] += Fraction(1, 10**place)
            try:
                bad = Composition(
                    name="Bad", order=table.order, reference="", leading=tuple(leading)
                )
            except ValueError:
                continue  # the table checks itself
            assert defect(bad.merged(0), 3, clock=False) > 1e-26


def test_a_table_that_looks_outside_of_the_step_is_refused() -> None:
    """Suzuki's third root of -1 in place of Yoshida's: the middle of a substep leaves the step."""
    with pytest.raises(ValueError, match=r"'Far'.*must lie in \[0, 1\]"):
        Composition(name="Far", order=2, reference="", leading=(Fraction(-1, 2),))


# --- the map ---------------------------------------------------------------------------------


def driven(t: Tensor, y: Tensor) -> Tensor:
    """Hamilton's equations of H = (1 + sin(2 t) / 2) T(p) + V(t, q), coupled and nonlinear.

    T = p1^4 / 4 + cosh(p1 - p2), V = sin(q1 q2) + cos(t) q1^2 + exp(q2 - q1).
    """
    q1, q2, p1, p2 = y.unbind(-1)
    mass = 1 + torch.sin(2 * t) / 2
    push = torch.exp(q2 - q1)
    slope = torch.cos(q1 * q2)
    return torch.stack(
        [
            mass * (p1**3 + torch.sinh(p1 - p2)),
            -mass * torch.sinh(p1 - p2),
            -(slope * q2 + 2 * torch.cos(t) * q1 - push),
            -(slope * q1 + push),
        ],
        -1,
    )


POINT = torch.tensor([0.4, -0.7, 0.3, 0.9], dtype=torch.float64)
J = torch.tensor([[0, 0, 1, 0], [0, 0, 0, 1], [-1, 0, 0, 0], [0, -1, 0, 0]], dtype=torch.float64)


def bound(method: Any, field: Any, like: Any) -> Any:
    packing = Packing.of(like)
    return method.bind(PackedField(field, packing), packing)


def asymmetry(method: Any) -> float:
    """Of M^T J M - J, where M is the Jacobian of three steps."""
    stepper = bound(method, driven, POINT)

    def walk(y: Tensor) -> Tensor:
        memory = None
        for t, t_next in ((0.3, 0.5), (0.5, 0.75), (0.75, 0.9)):
            step = stepper.step(t, t_next, y, memory)
            y, memory = step.y1, step.memory
        return y

    M = torch.autograd.functional.jacobian(walk, POINT)
    return (M.T @ J @ M - J).abs().max().item()


@EVERY
def test_the_map_is_symplectic(method: Splitting) -> None:
    assert asymmetry(method) < 1e-12
    assert asymmetry(ic.RK4()) > 1e-5


@EVERY
def test_a_step_taken_back_returns(method: Splitting) -> None:
    """A symmetric method: the step from the end to the start is its inverse."""
    stepper = bound(method, driven, POINT)
    step = stepper.step(0.3, 0.7, POINT, None)
    for memory in (None, step.memory):
        back = stepper.step(0.7, 0.3, step.y1, memory).y1
        torch.testing.assert_close(back, POINT, rtol=0, atol=1e-14)


# --- what `autonomous` promises -----------------------------------------------------------------


def forced(t: Tensor, y: Tensor) -> Tensor:
    """q' = p, p' = sin^3 t - sin t - q^3, solved by q = sin t."""
    q, p = y.unbind(-1)
    return torch.stack([p, torch.sin(t) ** 3 - torch.sin(t) - q**3], -1)


@EVERY
def test_order_under_a_force_that_depends_on_time(method: Splitting) -> None:
    def error(n: int) -> float:
        with torch.no_grad():
            y0 = torch.tensor([0.0, 1.0], dtype=torch.float64)
            end = ic.solve(forced, y0, 0, 2, solver=method, dt0=2 / n).ys[-1]
        exact = torch.tensor([math.sin(2), math.cos(2)], dtype=torch.float64)
        return (end - exact).norm().item()

    counts = {2: [40, 57, 80], 4: [28, 40, 57], 6: [20, 28, 40], 8: [8, 11, 16]}[method.order]
    found = order_of(counts, [error(n) for n in counts], corrected=False)
    assert found == pytest.approx(method.order, abs=0.3)


def standing(t: Tensor, y: Tensor) -> Tensor:
    """`driven` without its dependence on time."""
    return driven(torch.zeros_like(t), y)


@pytest.mark.parametrize("kind", [ic.Yoshida4, ic.Yoshida6])
def test_merging_saves_evaluations_only(kind: Any) -> None:
    counts, ends = [], []
    for autonomous in (False, True):
        field = Watched(standing)
        options = {"solver": kind(autonomous=autonomous), "dt0": 0.05}
        with torch.no_grad():
            ends.append(ic.solve(field, POINT, 0, 1, **options).ys[-1])
        counts.append(len(field.times))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-13)
    assert counts == [20 * kind().evaluations_per_step, 20 * kind(True).evaluations_per_step + 1]
    assert kind(True).evaluations_per_step == kind().evaluations_per_step * 2 // 3


# --- states ----------------------------------------------------------------------------------


def halves(y: Tensor) -> tuple[Tensor, Tensor]:
    middle = y.shape[-1] // 2
    return y[..., :middle], y[..., middle:]


BATCH = torch.stack([POINT, POINT.flip(0) / 2, -POINT])

LAYOUTS: dict[str, tuple[Any, Any]] = {
    "tuple": (tuple, tuple),
    "list": (list, tuple),
    "dict": (lambda pair: dict(zip("qp", pair, strict=True)), lambda y: (y["q"], y["p"])),
    "nested": (
        lambda pair: tuple({"one": x[..., :1], "other": [x[..., 1:]]} for x in pair),
        lambda y: tuple(torch.cat([x["one"], *x["other"]], -1) for x in y),
    ),
}


@EVERY
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pair_is_the_tensor_of_both(method: Splitting, layout: str) -> None:
    boxed, opened = LAYOUTS[layout]

    def field(t: Tensor, y: Any) -> Any:
        return boxed(halves(driven(t, torch.cat(opened(y), -1))))

    options: dict[str, Any] = {"solver": method, "dt0": 0.1}
    with torch.no_grad():
        plain = ic.solve(driven, BATCH, 0, 0.5, **options).ys[-1]
        pair = ic.solve(field, boxed(halves(BATCH)), 0, 0.5, **options).ys
    torch.testing.assert_close(torch.cat(opened(pair), -1)[-1], plain, rtol=0, atol=1e-14)


@EVERY
@pytest.mark.parametrize(
    "y0",
    [
        torch.ones(()),
        torch.ones(3),
        torch.ones(2, 3),
        (torch.ones(2), torch.ones(3)),
        (torch.ones(2), torch.ones(2), torch.ones(2)),
        [torch.ones(4)],
        {"q": torch.ones(2), "p": torch.ones(2), "mass": torch.ones(1)},
    ],
    ids=["scalar", "odd", "odd_rows", "unequal", "three", "one", "three_keys"],
)
def test_a_state_that_is_not_two_halves_is_refused(method: Splitting, y0: Any) -> None:
    with pytest.raises(ic.InputError, match=r"`y0`: given .*expected positions and momenta"):
        ic.solve(lambda t, y: y, y0, 0, 1, solver=method, dt0=0.1)


def test_the_reverse_solve_of_backsolve_is_refused_with_its_remedy() -> None:
    """State and adjoint together are not two halves of which each moves the other."""
    y0 = POINT.clone().requires_grad_()
    options = {"solver": "leapfrog", "dt0": 0.1}
    end = ic.solve(driven, y0, 0, 1, adjoint=ic.Backsolve(), **options).ys
    with pytest.raises(ic.InputError, match=r"given shapes \[.*`Backsolve\(solver=...\)`"):
        end.sum().backward()
    other = ic.solve(driven, y0, 0, 1, adjoint=ic.Backsolve(solver="rk4"), **options).ys
    (found,) = torch.autograd.grad(other.sum(), y0)
    (exact,) = torch.autograd.grad(ic.solve(driven, y0, 0, 1, **options).ys.sum(), y0)
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0.02)


# --- gradients -------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize(
    "adjoint",
    [ic.Checkpointed(), ic.Checkpointed(graph_budget=0), ic.Checkpointed(slots=2)],
    ids=["kept", "replayed", "slots"],
)
def test_gradients_are_those_of_the_discrete_solve(method: Splitting, adjoint: Any) -> None:
    """Of start, times and a parameter, through ends of steps and what lies between."""

    def gradients(adjoint: Any) -> tuple[Tensor, ...]:
        y0, scale = BATCH.clone().requires_grad_(), torch.ones(4).double().requires_grad_()
        t0, t1 = (torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (0.1, 0.83))
        save = ic.SaveAt(ts=[0.25, 0.41, 0.44], t1=True)
        sol = ic.solve(
            lambda t, y: scale * driven(t, y), y0, t0, t1, solver=method, dt0=0.2, save=save,
            adjoint=adjoint,
        )  # fmt: skip
        loss = (sol.ys.sin() * torch.arange(1, 5)).sum()
        return torch.autograd.grad(loss, [y0, scale, t0, t1])

    for found, expected in zip(gradients(adjoint), gradients(ic.Direct()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@EVERY
def test_steps_are_differentiable(method: Splitting) -> None:
    """Against finite differences, in the state, in what is carried, and in both times."""
    stepper = bound(method, driven, POINT)
    carried = stepper.init(0.3, POINT).carried

    def outputs(t: Tensor, t_next: Tensor, y: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
        step = stepper.step(t, t_next, y, ic.solvers.Memory(None, carried))
        middle = step.dense().at(torch.tensor([0.37], dtype=torch.float64))
        return (step.y1, middle, *step.memory.carried)

    inputs = (torch.tensor(0.3).double(), torch.tensor(0.6).double(), POINT, *carried)
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(outputs, leaves)
