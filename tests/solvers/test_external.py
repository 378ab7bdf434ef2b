"""Black boxes: what they answer, at which tolerance."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.solvers import SciPy

from ..known import OneBuffer, Watched, knotted, swing, swung, unknotted
from .external_cases import EVERY, SPANS, START, solve

# --- what they answer ----------------------------------------------------------------------------


@EVERY
@SPANS
def test_the_error_follows_the_tolerance(name: str, span: tuple[float, float]) -> None:
    """Four coupled equations at five phases, with an exact solution: errors with tolerance."""
    errors = []
    tolerances = [1e-4, 1e-6, 1e-8]
    for tol in tolerances:
        save = ic.SaveAt(ts=torch.linspace(*span, 7)[1:])
        found = solve(
            knotted, unknotted(span[0]), *span, solver=name, rtol=tol, atol=tol, save=save
        )
        errors.append(float((found.ys - unknotted(found.ts)).abs().max()))
        assert found.status is ic.Status.SUCCESS
        assert found.t_end == span[1]
    # Multistep methods restart nothing and control the local error alone: a few hundred at most.
    for error, tol in zip(errors, tolerances, strict=True):
        assert error < 600 * tol, errors
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 1e-2 * errors[0]


@EVERY
@SPANS
def test_output_lies_where_it_is_asked_for(name: str, span: tuple[float, float]) -> None:
    start, end = span
    middle = 0.5 * (start + end)
    ts = [start, start + 0.1 * (end - start), middle, middle, end]
    save = ic.SaveAt(t0=True, ts=ts, t1=True)
    found = solve(swing, START, *span, solver=name, rtol=1e-7, atol=1e-9, save=save)
    assert found.ts.tolist() == [start, *ts, end]
    assert (found.ys - swung(found.ts, t0=start)).abs().max() < 1e-4
    assert torch.equal(found.ys[3], found.ys[4])
    assert torch.equal(found.ys[5], found.ys[6])
    plain = solve(swing, START, *span, solver=name, rtol=1e-7, atol=1e-9)
    assert plain.ts.tolist() == [end]
    assert torch.equal(plain.ys[0], found.ys[-1])  # output between steps changes no step
    assert plain.stats.steps_accepted == found.stats.steps_accepted


@EVERY
@SPANS
def test_steps_and_dense_output_are_the_librarys(name: str, span: tuple[float, float]) -> None:
    ts = torch.linspace(*span, 40, dtype=torch.float64)[1:-1]
    options: dict[str, Any] = {"solver": name, "rtol": 1e-6, "atol": 1e-8}
    save = ic.SaveAt(ts=ts, steps=True, dense=True)
    found = solve(swing, START, *span, save=save, **options)
    sign = 1 if span[1] > span[0] else -1
    assert torch.equal(found.ts, sign * (sign * found.ts).sort().values)
    steps = [t for t in found.ts.tolist() if t not in ts.tolist()]
    assert len(steps) == found.stats.steps_accepted
    assert steps[-1] == span[1]
    # The polynomials of isocline's dense output are the interpolants that gave the rows.
    assert (found(found.ts) - found.ys).abs().max() < 1e-13
    assert (found(found.ts) - swung(found.ts, t0=span[0])).abs().max() < 1e-3
    only = solve(swing, START, *span, save=ic.SaveAt(steps=True), **options)
    assert only.ts.tolist() == steps


@EVERY
def test_structures_and_kinds_of_numbers(name: str) -> None:
    """A dict of a float32 batch, a float64 scalar and a complex vector."""

    def field(t: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        assert [leaf.dtype for leaf in state.values()] == dtypes
        return {"x": -state["x"], "s": torch.cos(t.real), "z": 1j * state["z"]}

    start = {
        "x": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "s": torch.zeros((), dtype=torch.float64),
        "z": torch.tensor([1.0, 1j], dtype=torch.complex64),
    }
    dtypes = [leaf.dtype for leaf in start.values()]
    end = solve(field, start, 0.0, 1.0, solver=name, rtol=1e-7, atol=1e-8).ys
    assert [leaf.dtype for leaf in end.values()] == dtypes
    torch.testing.assert_close(end["x"][0], start["x"] * math.exp(-1), rtol=1e-5, atol=0)
    assert abs(end["s"][0].item() - math.sin(1)) < 1e-5
    torch.testing.assert_close(end["z"][0], start["z"] * np.exp(1j), rtol=1e-5, atol=1e-6)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_of_lower_precision(name: str, dtype: torch.dtype) -> None:
    """The field computes in the state's dtype, the library in float64."""
    seen = Watched(lambda t, y: -y)
    end = solve(seen, torch.ones(3, 2, dtype=dtype), 0, 1, solver=name, rtol=1e-4, atol=1e-4).ys
    assert end.dtype == dtype
    assert (end.float() - math.exp(-1)).abs().max() < (5e-3 if dtype == torch.bfloat16 else 1e-3)
    assert {t.dtype for t in seen.times} == {torch.float32}


@EVERY
def test_statistics_count_every_evaluation(name: str) -> None:
    seen = Watched(swing)
    found = solve(seen, START, 0, 5, solver=name)
    assert found.stats.nfe_forward == len(seen.values)
    assert 5 < found.stats.steps_accepted < found.stats.nfe_forward
    assert found.stats.steps_rejected >= 0
    assert found.stats.wall_time > 0


@EVERY
def test_a_field_with_one_buffer_for_all_answers(name: str) -> None:
    found = solve(OneBuffer(swing), START, 0, 3, solver=name, rtol=1e-6, atol=1e-6)
    assert torch.equal(found.ys, solve(swing, START, 0, 3, solver=name, rtol=1e-6, atol=1e-6).ys)


@EVERY
def test_a_function_of_the_state_is_kept_instead(name: str) -> None:
    save = ic.SaveAt(t0=True, ts=[1.0, 2.0], fn=lambda t, y: {"norm": y.norm(), "t": t})
    found = solve(swing, START, 0, 3, solver=name, save=save, rtol=1e-7, atol=1e-7)
    assert found.ys["t"].tolist() == [0.0, 1.0, 2.0]
    torch.testing.assert_close(found.ys["norm"], torch.ones(3).double(), rtol=0, atol=1e-4)


@EVERY
def test_spans_of_every_length(name: str) -> None:
    for t0, t1 in [(1.0, math.nextafter(1.0, 2.0)), (1e6, 1e6 - 1e-9), (0.0, 1e-12), (-1e-3, 1e-3)]:
        found = solve(swing, START, t0, t1, solver=name, rtol=1e-9, atol=1e-9)
        assert found.t_end == t1
        assert (found.ys[-1] - swung(t1, t0=t0)).abs().max() < 1e-8
    assert torch.equal(solve(swing, START, 2.0, 2.0, solver=name).ys[0], START)


STIFF = ["lsoda", "vode_bdf", "radau", "bdf", "cvode_bdf"]


@pytest.mark.parametrize("name", STIFF)
def test_stiff_problems_are_no_trouble(name: str) -> None:
    """y' = -1e6 (y - cos t): an explicit method needs more than a million evaluations."""
    found = solve(lambda t, y: -1e6 * (y - torch.cos(t)), START, 0, 3, solver=name)
    assert found.stats.nfe < 1500
    assert (found.ys[-1] - math.cos(3)).abs().max() < 1e-4


@pytest.mark.parametrize("name", STIFF)
def test_a_jacobian_that_is_not_symmetric(name: str) -> None:
    """Two rates, coupled one way: SciPy 1.17 takes VODE's Jacobian the wrong way round."""
    rates = torch.tensor([[-1000.0, 900.0], [0.0, -1.0]], dtype=torch.float64)
    y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = solve(lambda t, y: rates @ y, y0, 0, 3, solver=name, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.ys[-1], torch.matrix_exp(3 * rates) @ y0, rtol=2e-4, atol=0)
    assert found.stats.nfe < 600


# --- tolerances ----------------------------------------------------------------------------------


def rotations(count: int) -> tuple[Any, Tensor, Tensor]:
    """Independent rotations: a field, a start, and the exact state after a time of 2."""
    speeds = torch.linspace(0.5, 2.0, count, dtype=torch.float64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([speeds * y[1], -speeds * y[0]])

    start = torch.stack([torch.ones(count).double(), torch.zeros(count).double()])
    return field, start, torch.stack([torch.cos(2 * speeds), -torch.sin(2 * speeds)])


@EVERY
def test_an_absolute_tolerance_for_each_element(name: str) -> None:
    """An element whose tolerance is loose may err, and lets steps grow."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-y[0], 20.0 * torch.cos(20.0 * t)])

    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    tight = solve(field, y0, 0, 3, solver=name, rtol=0.0, atol=1e-7)
    both = torch.tensor([1e-7, 1e3], dtype=torch.float64)
    loose = solve(field, y0, 0, 3, solver=name, rtol=0.0, atol=both)
    assert abs(loose.ys[-1, 0].item() - math.exp(-3)) < 1e-4
    assert loose.stats.steps_accepted < 0.7 * tight.stats.steps_accepted
    assert abs(tight.ys[-1, 1].item() - math.sin(60)) < 1e-3


@EVERY
def test_a_tolerance_for_each_complex_number(name: str) -> None:
    """Rotations in the complex plane, one of them fast and of no interest."""
    speeds = torch.tensor([1j, 25j], dtype=torch.complex128)
    start = torch.ones(2, dtype=torch.complex128)
    atol = torch.tensor([1e-7, 1e3], dtype=torch.float64)
    loose = solve(lambda t, y: speeds * y, start, 0, 2, solver=name, rtol=0.0, atol=atol)
    tight = solve(lambda t, y: speeds * y, start, 0, 2, solver=name, rtol=0.0, atol=1e-7)
    assert abs(loose.ys[-1, 0].item() - np.exp(2j)) < 1e-4
    assert (tight.ys[-1] - (2 * speeds).exp()).abs().max() < 1e-3
    assert loose.stats.steps_accepted < 0.7 * tight.stats.steps_accepted


@EVERY
def test_one_relative_tolerance_for_all(name: str) -> None:
    same = torch.full((2,), 1e-6, dtype=torch.float64)
    found = solve(swing, START, 0, 2, solver=name, rtol=same)
    assert torch.equal(found.ys, solve(swing, START, 0, 2, solver=name, rtol=1e-6).ys)
    with pytest.raises(ic.InputError, match=r"`rtol`: .*Let `atol` differ instead"):
        solve(swing, START, 0, 2, solver=name, rtol=torch.tensor([1e-6, 1e-3]))


@EVERY
def test_tolerances_of_zero(name: str) -> None:
    """A state of zeros with atol = 0: a weight of 1 / 0 is an illegal input to many libraries."""
    start = torch.zeros(2, dtype=torch.float64)
    for atol in (0, torch.zeros(2)):
        found = solve(lambda t, y: torch.ones_like(y), start, 0, 1, solver=name, atol=atol)
        assert (found.ys[-1] - 1).abs().max() < 1e-4
    found = solve(swing, START, 0, 1, solver=name, rtol=0.0, atol=1e-8)
    assert (found.ys[-1] - swung(1.0)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["lsoda", "vode_adams", "vode_bdf", "cvode_adams", "cvode_bdf"])
def test_large_states_need_no_matrix(name: str) -> None:
    """A dense Jacobian of two hundred thousand elements has 320 GB.

    The diagonal of the Jacobian is zero. Found by differences of all elements at once, as libraries
    do for a band, it is not, and passes for convergence at a wrong state.
    """
    field, start, exact = rotations(100_000)
    found = solve(field, start, 0, 2, solver=name, rtol=1e-5, atol=1e-5)
    assert (found.ys[-1] - exact).abs().max() < 2e-3
    assert found.stats.nfe < 400


def test_a_method_that_needs_a_matrix_says_so() -> None:
    field, start, exact = rotations(20_000)
    with pytest.raises(ic.InputError, match=r"dense matrix of 40000 x 40000.*cvode_bdf"):
        solve(field, start, 0, 2, solver="radau")
    options = {"jac_sparsity": np.array([[0, 1], [1, 0]])}
    field, start, exact = rotations(1)
    sparse = SciPy("Radau", options)
    assert (solve(field, start, 0, 2, solver=sparse).ys[-1] - exact).abs().max() < 1e-4
