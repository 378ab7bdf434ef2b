"""Implicit methods at work: stiff problems, invariants, hard equations, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.problem import PackedField
from isocline.solvers.base import Step
from isocline.solvers.implicit import IMPLICIT, equations
from isocline.state import Packing

from ..known import OneBuffer, Watched

METHODS = list(IMPLICIT.values())
EVERY = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
GRAD = pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
Method = Any
DTYPE = torch.float64

DAMPING = {"ImplicitEuler", "RadauIIA3", "RadauIIA5", "SDIRK2", "TRBDF2"}
KEEPING = {"ImplicitMidpoint", "GaussLegendre4", "GaussLegendre6"}


def solved(method: Method, field: Any, y0: Any, t1: float, h: float, **options: Any) -> Any:
    with torch.no_grad():
        return ic.solve(field, y0, 0.0, t1, solver=method(), dt0=h, **options)


def stepped(
    method: Method, field: Callable[..., Tensor], y: Tensor, h: float, t: float = 0.0
) -> Step:
    packing = Packing.of(y)
    stepper = method().bind(PackedField(field, packing), packing)
    with torch.no_grad():
        found: Step = stepper.step(t, t + h, y.flatten(), None)
    return found


def stage_error(
    method: Method, field: Callable[..., Tensor], y: Tensor, h: float, t: float = 0.0
) -> float:
    """How far the stages of one step are from solving their equations, against the state."""
    step, table = stepped(method, field, y, h, t), method.coefficients
    assert not step.unsolved
    slopes = step.dense().slopes
    a = torch.tensor([[float(x) for x in row] for row in table.a], dtype=DTYPE)
    states = y.flatten() + h * (a @ slopes)
    worst = 0.0
    for c, state, slope in zip(table.c, states, slopes, strict=True):
        again = field(torch.tensor(t + float(c) * h, dtype=DTYPE), state.view(y.shape))
        worst = max(worst, h * (again.flatten() - slope).abs().max().item())
    return worst / max(1.0, states.abs().max().item())


def factor(method: Method, z: float) -> float:
    """The stability function of the table, in exact arithmetic up to the end."""
    a = torch.tensor([[float(x) for x in row] for row in method.coefficients.a], dtype=DTYPE)
    b = torch.tensor([float(x) for x in method.coefficients.b], dtype=DTYPE)
    inner = torch.linalg.solve(torch.eye(len(b)) - z * a, torch.ones(len(b), dtype=DTYPE))
    return float(1 + z * b @ inner)


# --- stiffness -------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("rate", [-1e6, -1e3, -1.0, 0.5])
def test_a_linear_decay_is_the_stability_function(method: Method, rate: float) -> None:
    y0 = torch.tensor([[1.0], [-3.0]], dtype=DTYPE)
    end = solved(method, lambda t, y: rate * y, y0, 1.0, 1.0).ys[-1]
    # A first stage that is explicit has the size of the rate, and its rounding errors.
    rounding = 1e-15 * (10 + abs(rate) * method.coefficients.blocks[0].explicit)
    torch.testing.assert_close(end, factor(method, rate) * y0, rtol=1e-9, atol=rounding)


@EVERY
def test_large_steps_of_a_stiff_decay_stay_bounded_and_damp_where_they_should(
    method: Method,
) -> None:
    y0 = torch.tensor([1.0, -0.2, 3.0], dtype=DTYPE)
    rates = torch.tensor([-1e6, -1e2, -1.0], dtype=DTYPE)
    ends = solved(method, lambda t, y: rates * y, y0, 40.0, 1.0, save=ic.SaveAt(steps=True)).ys
    assert (ends.abs() <= y0.abs() * (1 + 1e-9)).all()
    fast = ends[:, 0].abs()
    if method.__name__ in DAMPING:
        assert fast[2] < 1e-10
    else:
        assert fast[-1] > 0.99


@EVERY
def test_prothero_and_robinson(method: Method) -> None:
    """y' = rate (y - sin t) + cos t: the solution is smooth however stiff the field."""
    rate, h = -1e6, 0.1
    times = torch.linspace(0.1, 3, 30, dtype=DTYPE)
    sol = solved(
        method,
        lambda t, y: rate * (y - torch.sin(t)) + torch.cos(t),
        torch.zeros(1, dtype=DTYPE),
        3.0,
        h,
        save=ic.SaveAt(steps=True),
    )
    torch.testing.assert_close(sol.ts, times, rtol=0, atol=1e-12)
    error = (sol.ys[:, 0] - torch.sin(sol.ts)).abs().max().item()
    # The stage order decides here: one for all but those that are exact at stiff nodes.
    assert error < (1e-7 if method.__name__ in DAMPING else 3e-2 * h)


def test_robertson_reaches_its_published_state() -> None:
    """Hairer and Wanner (1996), IV.10, by way of SciPy's Radau at 1e-12: the state at t = 40."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        y1, y2, y3 = y.unbind(-1)
        first = -0.04 * y1 + 1e4 * y2 * y3
        third = 3e7 * y2**2
        return torch.stack([first, -first - third, third], -1)

    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=DTYPE)
    sol = solved(ic.RadauIIA5, field, y0, 40.0, 0.5)
    exact = torch.tensor([0.715827068718, 9.18553476456e-6, 0.284163745747], dtype=DTYPE)
    torch.testing.assert_close(sol.ys[-1], exact, rtol=1e-7, atol=0)
    assert sol.ys[-1].sum().item() == pytest.approx(1, abs=1e-13)


@EVERY
@pytest.mark.parametrize("stiffness", [1.0, 1e3, 1e6])
def test_soft_directions_stay_sharp_beside_stiff_ones(method: Method, stiffness: float) -> None:
    """Eigenvalues -stiffness and -1 in a skew basis: each part steps by its own factor."""
    basis = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=DTYPE)
    matrix = basis @ torch.diag(torch.tensor([-stiffness, -1.0], dtype=DTYPE)) @ basis.inverse()
    y0 = torch.tensor([1.0, 1.0], dtype=DTYPE)
    end = solved(method, lambda t, y: matrix @ y, y0, 0.5, 0.5).ys[-1]
    factors = torch.tensor([factor(method, -0.5 * s) for s in (stiffness, 1.0)], dtype=DTYPE)
    exact = basis @ (factors * torch.linalg.solve(basis, y0))
    torch.testing.assert_close(end, exact, rtol=0, atol=1e-10)


# --- invariants ------------------------------------------------------------------------------


@EVERY
def test_gauss_methods_keep_quadratic_invariants_to_rounding(method: Method) -> None:
    """A rigid body (Hairer, Lubich and Wanner 2006, IV.1): length and energy of its momentum."""
    inertia = torch.tensor([2.0, 1.0, 2 / 3], dtype=DTYPE)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.linalg.cross(y, y / inertia)

    y0 = torch.tensor([math.cos(1.1), 0.0, math.sin(1.1)], dtype=DTYPE)
    ys = solved(method, field, y0, 18.0, 0.3, save=ic.SaveAt(t0=True, steps=True)).ys
    for invariant in (ys.square().sum(-1), (ys.square() / inertia).sum(-1)):
        drift = (invariant - invariant[0]).abs().max().item()
        assert (drift < 2e-13) == (method.__name__ in KEEPING), drift


# --- the equations are solved, whatever they are ---------------------------------------------

WEIGHT = torch.tensor([[1.5, -0.8, 0.3], [0.2, 1.1, -1.9], [-0.7, 0.4, 0.9]], dtype=DTYPE)


def normalised(t: Tensor, y: Tensor) -> Tensor:
    """Batch normalisation: the rate of each sample depends on all of them."""
    z = (y - y.mean(0)) / (y.var(0, unbiased=False) + 1e-2).sqrt()
    return 2 * torch.tanh(z @ WEIGHT) - torch.cos(t) * y


def saturating(t: Tensor, y: Tensor) -> Tensor:
    """Newton's method overshoots here unless it is damped."""
    return 3 * torch.tanh(6 * y.flip(-1) - 9 * y) - 0.3 * y


def growing(t: Tensor, y: Tensor) -> Tensor:
    """The matrix of a long step is indefinite at the start, and Newton's method goes astray."""
    return torch.cos(t) * torch.sin(y)


def batch(samples: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(samples, 3, generator=generator, dtype=DTYPE)


@EVERY
@pytest.mark.parametrize(
    ("field", "h", "t"),
    [(normalised, 0.2, 0.0), (normalised, 0.6, 0.0), (saturating, 0.3, 0.0), (growing, 1.17, 2.0)],
    ids=["coupled", "coupled_more", "overshooting", "growing"],
)
def test_the_stages_solve_their_equations(
    method: Method, field: Callable[..., Tensor], h: float, t: float
) -> None:
    assert stage_error(method, field, batch(), h, t) < 2e-14


def test_a_fold_between_guess_and_solution_is_passed() -> None:
    """y1 = y + 1.17 sin(y1) at y = -0.232: Newton's method ends at the fold near 0.6."""
    y = torch.tensor([1.0, -0.2321], dtype=DTYPE)
    rate = 1.169

    def field(t: Tensor, y: Tensor) -> Tensor:
        return rate * torch.sin(y)

    end = stepped(ic.ImplicitEuler, field, y, 1.0).y1
    torch.testing.assert_close(end - rate * torch.sin(end), y, rtol=0, atol=1e-14)


@EVERY
def test_samples_that_do_not_see_each_other_step_as_if_alone(method: Method) -> None:
    y0 = batch() * torch.tensor([1e-3, 1, 10, 1, 1, 1e3], dtype=DTYPE)[:, None]

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ WEIGHT) - y

    together = stepped(method, field, y0, 0.4).y1.view(y0.shape)
    for row, end in zip(y0, together, strict=True):
        alone = stepped(method, field, row[None], 0.4).y1
        torch.testing.assert_close(end, alone, rtol=4e-15, atol=1e-17)


def diffusion(t: Tensor, y: Tensor) -> Tensor:
    """A heat equation with a sink, of 40 points: stiff, and one sample."""
    spread = torch.zeros_like(y)
    spread[1:-1] = (y[2:] - 2 * y[1:-1] + y[:-2]) * 30
    return spread - y**3


@EVERY
def test_a_state_without_matrices_finds_the_same(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a matrix at once, by GMRES, by GMRES alone, and with a matrix where that does not do."""
    y0 = torch.sin(torch.linspace(0, 3, 40, dtype=DTYPE)) + 0.5
    ends = []
    for few, most, products in ((64, 1024, 80), (8, 1024, 80), (8, 16, 80), (8, 1024, 2)):
        monkeypatch.setattr(equations, "_FEW_COLUMNS", few)
        monkeypatch.setattr(equations, "_MOST_COLUMNS", most)
        monkeypatch.setattr(equations, "_PRODUCTS", products)
        sol = solved(method, diffusion, y0, 0.3, 0.1)
        assert (sol.stats.jacobians > 0) == (few == 64 or products == 2)
        ends.append(sol.ys[-1])
        assert stage_error(method, diffusion, y0, 0.1) < 1e-13
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-13)


def test_a_mild_field_over_a_large_sample_needs_no_matrix() -> None:
    y0 = torch.randn(2, 200, generator=torch.Generator().manual_seed(0), dtype=DTYPE)
    sol = solved(ic.ImplicitMidpoint, lambda t, y: torch.cos(y.flip(-1)), y0, 1.0, 0.1)
    assert sol.stats.jacobians == 0
    assert sol.stats.nfe < 200


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_stages_are_solved_to_the_precision_there_is(method: Method, dtype: torch.dtype) -> None:
    y0 = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=DTYPE)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(y.flip(-1)) - y

    fine = solved(method, field, y0, 1.0, 0.25).ys[-1]
    coarse = solved(method, field, y0.to(dtype), 1.0, 0.25).ys[-1]
    assert coarse.dtype == dtype
    assert (coarse.double() - fine).abs().max() < 8 * torch.finfo(dtype).eps


@EVERY
def test_autocast_bounds_what_can_be_solved_and_is_no_failure(method: Method) -> None:
    """Differences finer than what the field resolves would make no Jacobian of a stiff field."""
    layer = torch.nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-40.0, 3.0, 0.0], [2.0, -60.0, 1.0], [0.0, 5.0, -30.0]]))

    def field(t: Tensor, y: Tensor) -> Tensor:
        return layer(torch.tanh(y))

    y0 = batch().float()
    plain = solved(method, field, y0, 1.0, 0.25).ys
    with torch.autocast("cpu", torch.bfloat16):
        cast = solved(method, field, y0, 1.0, 0.25).ys
    torch.testing.assert_close(cast, plain, rtol=0, atol=5e-2)


@EVERY
def test_leaves_in_other_units_are_solved_each_to_its_own(method: Method) -> None:
    y0 = {"large": torch.ones(1, dtype=DTYPE), "small": torch.ones(2, dtype=DTYPE)}

    def field(t: Tensor, y: Any, unit: float = 1.0) -> Any:
        small = y["small"] / unit
        return {"large": small.sum() - y["large"] ** 2, "small": unit * (torch.cos(t) - small**3)}

    one = solved(method, field, y0, 1.0, 0.25).ys
    unit = 2.0**-40
    y0["small"] = y0["small"] * unit
    other = solved(method, lambda t, y: field(t, y, unit), y0, 1.0, 0.25).ys
    torch.testing.assert_close(other["large"], one["large"], rtol=1e-14, atol=0)
    torch.testing.assert_close(other["small"] / unit, one["small"], rtol=1e-14, atol=0)


@EVERY
def test_a_field_that_no_graph_goes_through_is_solved_as_well(method: Method) -> None:
    """The Jacobian comes from differences: a stiff field may come from a C library."""
    y0 = batch()

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.from_numpy(-1e5 * (y.numpy() - math.cos(t.item())))

    def same(t: Tensor, y: Tensor) -> Tensor:
        return -1e5 * (y - torch.cos(t))

    found = solved(method, OneBuffer(field), y0, 1.0, 0.25).ys
    torch.testing.assert_close(found, solved(method, same, y0, 1.0, 0.25).ys, rtol=0, atol=1e-10)


@EVERY
def test_inference_mode_is_no_obstacle(method: Method) -> None:
    with torch.inference_mode():
        sol = ic.solve(normalised, batch(), 0.0, 0.4, solver=method(), dt0=0.2)
    assert torch.equal(sol.ys, solved(method, normalised, batch(), 0.4, 0.2).ys)


# --- equations without a solution ------------------------------------------------------------


@GRAD
def test_equations_without_a_solution_are_a_status(grad: bool) -> None:
    """y1 = y + h (1 + y1^2) has none for h = 1; the first steps have one for sample 0 alone."""
    height = torch.tensor([[-9.0], [1.0], [1.0]], dtype=DTYPE)
    y0 = torch.tensor([[0.0], [0.1], [0.2]], dtype=DTYPE)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t > 0.5, height + y**2, -y)

    options: dict[str, Any] = {"solver": ic.ImplicitEuler(), "dt0": 0.5}
    save = ic.SaveAt(t0=True, steps=True)
    with torch.set_grad_enabled(grad):
        message = r"at t = 0\.5 in sample 1, 2 .*equations of an implicit step .*shorten the step"
        with pytest.raises(ic.UnsolvedStepError, match=message) as caught:
            ic.solve(field, y0, 0.0, 2.0, **options)
        sol = ic.solve(field, y0.requires_grad_(grad), 0.0, 2.0, save=save, throw=False, **options)
    assert caught.value.samples == sol.failed_samples == (1, 2)
    assert sol.status is ic.Status.UNSOLVED
    assert sol.ts.tolist() == [0.0, 0.5]
    torch.testing.assert_close(sol.ys[-1], y0 / 1.5)


@EVERY
def test_no_method_answers_where_there_is_no_solution(method: Method) -> None:
    sol = solved(method, lambda t, y: 50 * (1 + y**4), torch.ones(2, dtype=DTYPE), 1.0, 1.0,
                 throw=False)  # fmt: skip
    assert sol.status in (ic.Status.UNSOLVED, ic.Status.NON_FINITE)
    assert sol.ys is None


def test_a_field_that_is_not_finite_is_not_called_unsolved() -> None:
    sol = solved(ic.SDIRK2, lambda t, y: y / (t < 0.5), torch.ones(2, dtype=DTYPE), 1.0, 0.25,
                 throw=False)  # fmt: skip
    assert sol.status is ic.Status.NON_FINITE


# --- what it costs ---------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_linear_field_costs_one_evaluation_a_number_and_two_a_stage(
    method: Method, size: int
) -> None:
    blocks = method.coefficients.blocks
    explicit = sum(block.explicit for block in blocks)
    stages = method.coefficients.stages - explicit
    steps, samples = 10, 4
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(1), dtype=DTYPE)
    field = Watched(lambda t, y: torch.cos(t) * y @ matrix)
    y0 = torch.ones(samples, size, dtype=DTYPE)
    stats = solved(method, field, y0, 1.0, 1 / steps).stats
    assert stats.nfe == len(field.values) == steps * (stages * (size + 2) + explicit)
    assert stats.jacobians == steps * (len(blocks) - explicit)
    assert stats.linear_solves == 2 * stats.jacobians
    if size == 2:
        assert stats.nfe == steps * method().evaluations_per_step
    plain = ic.solve(lambda t, y: -y, y0, 0.0, 1.0).stats
    assert (plain.jacobians, plain.linear_solves) == (0, 0)


@EVERY
def test_a_smooth_step_needs_few_corrections(method: Method) -> None:
    """A Jacobian is kept while it serves: evaluations of a step on a mild nonlinear field."""
    y0 = batch()
    stats = solved(method, lambda t, y: torch.tanh(y @ WEIGHT) - y, y0, 1.0, 0.05).stats
    table = method.coefficients
    assert stats.nfe <= 20 * 9.5 * table.stages
