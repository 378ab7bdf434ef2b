"""Every option does what torchdiffeq's documentation says it does."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.torchdiffeq import SOLVERS, odeint
from isocline.torchdiffeq.errors import MaxNumStepsError

from ..known import Watched, swing, swung


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Tried:
    """A field that notes the steps that are tried."""

    def __init__(self, func: Callable[[Tensor, Any], Any] = swing) -> None:
        self.func = func
        self.tried: list[tuple[float, float]] = []
        self.accepted: list[tuple[float, float]] = []
        self.evaluations = 0

    def __call__(self, t: Tensor, y: Any) -> Any:
        self.evaluations += 1
        return self.func(t, y)

    def callback_step(self, t0: Tensor, y0: Any, dt: Tensor) -> None:
        self.tried.append((t0.item(), dt.item()))


class Steps(Tried):
    """A field that also notes which steps are accepted, for methods that can tell."""

    def callback_accept_step(self, t0: Tensor, y0: Any, dt: Tensor) -> None:
        self.accepted.append((t0.item(), dt.item()))


def steps_of(t: Tensor, func: Callable[[Tensor, Any], Any] = swing, **arguments: Any) -> Any:
    steps = Tried(func) if "method" in arguments else Steps(func)
    with torch.no_grad():
        odeint(steps, swung(t[0]), t, **arguments)
    return steps


# --- adaptive methods ------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0.03, torch.tensor(0.03)])
@pytest.mark.parametrize("t", [times(0.0, 2.0), times(2.0, 0.0)], ids=["rising", "falling"])
def test_first_step(first: Any, t: Tensor) -> None:
    assert steps_of(t, options={"first_step": first}).tried[0][1] == pytest.approx(0.03)


def test_max_step() -> None:
    steps = steps_of(times(0.0, 1.0), rtol=1e-2, atol=1e-2, options={"max_step": 0.04})
    assert max(h for _, h in steps.tried) == pytest.approx(0.04)
    assert len(steps.accepted) == 25


def test_min_step_is_taken_whatever_its_error() -> None:
    steps = steps_of(times(0.0, 3.0), rtol=1e-12, atol=1e-12, options={"min_step": 0.5})
    assert [round(h, 9) for _, h in steps.accepted] == [0.5] * 6
    assert len(steps.tried) == 6


def test_safety() -> None:
    lengths = [
        steps_of(times(0.0, 0.2), options={"safety": safety, "first_step": 0.01}).tried[1][1]
        for safety in (0.9, 0.45)
    ]
    assert lengths[0] == pytest.approx(2 * lengths[1])


def test_ifactor_and_dfactor() -> None:
    constant = lambda t, y: torch.ones_like(y)  # noqa: E731 (no error: steps grow at the most)
    options = {"ifactor": 3.0, "first_step": 0.01}
    lengths = [h for _, h in steps_of(times(0.0, 9.0), constant, options=options).tried]
    assert lengths[:4] == pytest.approx([0.01, 0.03, 0.09, 0.27])

    stiff = Steps(lambda t, y: -1e12 * y)  # steps are rejected, and shrink at the most
    options = {"dfactor": 0.1, "first_step": 1.0, "max_num_steps": 4}
    with pytest.raises(AssertionError, match="max_num_steps"):
        odeint(stiff, swung(0.0), times(0.0, 1.0), options=options)
    assert [h for _, h in stiff.tried] == pytest.approx([1.0, 0.1, 0.01, 0.001])


def test_an_ifactor_of_one_lets_no_step_grow() -> None:
    options = {"ifactor": 1.0, "first_step": 0.1}
    lengths = [h for _, h in steps_of(times(0.0, 1.0), options=options, rtol=1e-3).tried]
    assert lengths == pytest.approx([0.1] * 10)


@pytest.mark.parametrize("count", [4, torch.tensor(4)])
def test_max_num_steps_counts_the_steps_between_two_outputs(count: Any) -> None:
    fixed = {"first_step": 0.1, "max_step": 0.1}
    with pytest.raises(AssertionError, match="max_num_steps exceeded"):
        odeint(swing, swung(0.0), times(0.0, 1.0), options={**fixed, "max_num_steps": count})
    grid = torch.linspace(0, 1, 4, dtype=torch.float64)
    found = odeint(swing, swung(0.0), grid, options={**fixed, "max_num_steps": count})
    assert (found - swung(grid)).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["step_t", "jump_t"])
@pytest.mark.parametrize("given", [torch.tensor([0.7, 0.3]), [0.3, 0.7]], ids=["tensor", "list"])
@pytest.mark.parametrize("way", [1, -1], ids=["rising", "falling"])
def test_steps_end_where_they_are_told_to(name: str, given: Any, way: int) -> None:
    t = times(0.0, 1.0) if way > 0 else times(1.0, 0.0)
    loose = {"rtol": 1e-2, "atol": 1e-2}
    starts = [s for s, _ in steps_of(t, options={name: given, "first_step": 0.5}, **loose).accepted]
    for stop in (0.3, 0.7):
        assert any(abs(s - stop) < 1e-6 for s in starts)


def test_stops_outside_the_span_do_not_matter() -> None:
    options = {"step_t": times(-1.0, 5.0), "jump_t": times(7.0)}
    found = odeint(swing, swung(0.0), times(0.0, 1.0), options=options)
    assert torch.equal(found, odeint(swing, swung(0.0), times(0.0, 1.0)))


class Jump:
    """y' = 1 before 0.5, and -2.4 y from there on."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.seen.append(t.item())
        return torch.ones_like(y) if t < 0.5 else -2.4 * y


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "tsit5", "bosh3", "adaptive_heun"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("way", [1, -1], ids=["rising", "falling"])
def test_jump_t_keeps_the_sides_of_a_jump_apart(method: str, dtype: torch.dtype, way: int) -> None:
    """Right to the tolerance, in fewer evaluations, and never asked at the jump itself."""
    exact = 1.5 * math.exp(-1.2)
    t, y0, end = (times(0.0, 1.0), 1.0, exact) if way > 0 else (times(1.0, 0.0), exact, 1.0)
    loose = {"rtol": 1e-5, "atol": 1e-5, "method": method}
    start = torch.tensor([y0], dtype=dtype)
    plain, better = Jump(), Jump()
    odeint(plain, start, t, **loose)
    found = odeint(better, start, t, options={"jump_t": times(0.5)}, **loose)[1]
    assert len(better.seen) < len(plain.seen)
    assert 0.5 not in better.seen
    assert found.item() == pytest.approx(end, abs=1e-4)


def test_dtype_is_taken_and_does_not_matter() -> None:
    """Times are always double precision."""
    found = odeint(swing, swung(0.0), times(0.0, 1.0), options={"dtype": torch.float32})
    assert torch.equal(found, odeint(swing, swung(0.0), times(0.0, 1.0)))


def test_norm_of_a_tensor_state() -> None:
    shapes = []

    def norm(state: Tensor) -> Tensor:
        shapes.append(state.shape)
        return state.abs().max()

    y0 = torch.ones(3, 2, dtype=torch.float64)
    found = odeint(swing, y0, times(0.0, 1.0), options={"norm": norm})
    assert set(shapes) == {(3, 2)}
    assert (found[1] - swung(1.0, (1.0, 1.0))).abs().max() < 1e-6


def test_norm_of_a_tuple_state_sees_the_tuple() -> None:
    seen = []

    def norm(state: Any) -> Tensor:
        seen.append(tuple(leaf.shape for leaf in state))
        return torch.stack([leaf.abs().max() for leaf in state]).max()

    y0 = (torch.ones((), dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64))
    odeint(lambda t, y: (-y[0], -y[1]), y0, times(0.0, 1.0), options={"norm": norm})
    assert set(seen) == {((), (2, 2))}


def test_a_smaller_norm_takes_longer_steps() -> None:
    counts = [
        steps_of(times(0.0, 3.0), options={"norm": lambda e, k=k: k * e.abs().max()}).evaluations
        for k in (1e-3, 1.0, 1e3)
    ]
    assert counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize("crowd", ["entries", "a long entry", "samples"])
def test_nothing_hides_in_a_crowd(crowd: str) -> None:
    """The largest error of the entries counts, and in each that of the samples: as if alone."""

    def field(t: Tensor, y: Any) -> Any:
        first = torch.cat([8 * torch.cos(8 * t).expand(1, 1), 0 * y[0][1:]])
        return first, *(0 * rest for rest in y[1:])

    zeros = torch.zeros(1, 1, dtype=torch.float64)
    others = {
        "entries": (zeros, *[zeros] * 50),
        "a long entry": (zeros, torch.zeros(5000, dtype=torch.float64)),
        "samples": (zeros.expand(3000, 1), zeros.expand(3000, 1)),
    }[crowd]
    t = times(0.0, 2.0)
    alone = odeint(field, (zeros,), t, rtol=1e-6, atol=1e-6)[0][1, 0]
    found = odeint(field, others, t, rtol=1e-6, atol=1e-6)[0][1, 0]
    assert found.item() == pytest.approx(alone.item(), abs=1e-12)
    assert abs(alone.item() - math.sin(16.0)) < 2e-5


# --- methods of fixed steps ------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.25, torch.tensor(0.25)])
@pytest.mark.parametrize("way", [1, -1], ids=["rising", "falling"])
def test_step_size(size: Any, way: int) -> None:
    """Steps start at t[0], are not cut at outputs, and the last one may be shorter."""
    t = times(0.0, 0.3, 1.1) if way > 0 else times(1.1, 0.3, 0.0)
    steps = steps_of(t, method="rk4", options={"step_size": size})
    starts, lengths = zip(*steps.tried, strict=True)
    expected = [0.0, 0.25, 0.5, 0.75, 1.0] if way > 0 else [1.1, 0.85, 0.6, 0.35, 0.1]
    assert starts == pytest.approx(expected)
    assert lengths == pytest.approx([0.25] * 4 + [0.1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [3, 6, 7, 10, 100])
def test_a_whole_number_of_steps_has_no_sliver_at_its_end(dtype: torch.dtype, count: int) -> None:
    t = torch.tensor([0.0, count * 0.1], dtype=dtype)
    steps = Tried(lambda t, y: -y)
    odeint(steps, torch.ones(1), t, method="euler", options={"step_size": 0.1})
    assert len(steps.tried) == count


@pytest.mark.parametrize("way", [1, -1], ids=["rising", "falling"])
def test_grid_constructor(way: int) -> None:
    t = times(0.0, 0.5, 1.0) if way > 0 else times(1.0, 0.5, 0.0)
    y0 = times(1.0, 2.0)
    seen: list[Any] = []

    def grid(func: Any, y: Tensor, t: Tensor) -> Tensor:
        seen.append((func, y, t))
        return torch.linspace(t[0].item(), t[-1].item(), 11, dtype=torch.float64)

    field = lambda t, y: y  # noqa: E731
    found = odeint(field, y0, t, method="euler", options={"grid_constructor": grid})
    assert len(seen) == 1
    assert seen[0][0] is field
    assert torch.equal(seen[0][1], y0)
    assert torch.equal(seen[0][2], t)
    torch.testing.assert_close(found[2], y0 * (1 + way * 0.1) ** 10)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "rk4", "gl4", "explicit_adams"])
@pytest.mark.parametrize("perturb", [True, False])
def test_perturb_keeps_the_field_off_the_ends_of_steps(method: str, perturb: bool) -> None:
    field = Watched(lambda t, y: -y)
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    options = {"step_size": 0.5, "perturb": perturb}
    odeint(field, y0, times(0.0, 1.0), method=method, options=options)[1].sum().backward()
    at_ends = {0.0, 0.5, 1.0} & set(field.values)
    if perturb:
        assert not at_ends
    elif method != "gl4":  # its nodes are inside
        assert {0.0, 0.5} <= at_ends


def test_perturb_is_exact_where_a_field_jumps_at_a_step() -> None:
    """Euler and Heun on y' = 1, then -1: with the sides kept apart they make no error."""
    field = lambda t, y: torch.where(t < 0.5, 1.0, -1.0).to(y) + 0 * y  # noqa: E731
    for method in ("heun2", "rk4", "implicit_euler", "trapezoid"):
        options = {"step_size": 0.25, "perturb": True}
        t = times(0.0, 0.5, 1.0)
        found = odeint(field, times(0.0), t, method=method, options=options)[:, 0]
        assert found.tolist() == pytest.approx([0.0, 0.5, 0.0], abs=1e-12)


def test_perturbed_times_keep_their_gradient() -> None:
    t = times(0.0, 1.0).requires_grad_()
    options = {"step_size": 0.01, "perturb": True}
    end = odeint(lambda t, y: torch.cos(t) + 0 * y, times(0.0), t, method="rk4", options=options)[1]
    (gradient,) = torch.autograd.grad(end.sum(), t)
    assert gradient.tolist() == pytest.approx([-1.0, math.cos(1.0)], abs=1e-6)


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
def test_max_order(method: str) -> None:
    t = times(0.0, 2.0)
    errors = [
        (odeint(swing, swung(0.0), t, method=method, options=options)[1] - swung(2.0)).abs().max()
        for options in ({"step_size": 0.02, "max_order": k} for k in (4, 6, 8))
    ]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams", "fixed_adams"])
def test_low_orders_of_adams_are_rk4(method: str) -> None:
    options = {"step_size": 0.1, "max_order": 3}
    t = times(0.0, 2.0)
    with pytest.warns(UserWarning, match="max_order is below 4, so the solver reduces to `rk4`"):
        found = odeint(swing, swung(0.0), t, method=method, options=options)
    plain = odeint(swing, swung(0.0), t, method="rk4", options={"step_size": 0.1})
    assert torch.equal(found, plain)


def test_max_iters_of_implicit_adams() -> None:
    counts = []
    for options in ({"max_iters": 1}, {}, {"max_iters": 4}):
        options = {"step_size": 0.01, **options}
        counts.append(
            steps_of(times(0.0, 2.0), method="implicit_adams", options=options).evaluations
        )
    assert counts[0] < counts[1] < counts[2]


def test_max_iters_of_implicit_methods_is_taken() -> None:
    options = {"step_size": 0.1, "max_iters": 10}
    found = odeint(swing, swung(0.0), times(0.0, 1.0), method="gl6", options=options)
    assert (found[1] - swung(1.0)).abs().max() < 1e-8


# --- SciPy's ---------------------------------------------------------------------------------


def test_options_of_scipys_solvers() -> None:
    t = times(0.0, 2.0)
    field = Watched(swing)
    counts = []
    for options in ({}, {"max_step": 0.01}, {"solver": "RK45", "max_step": 0.5}):
        field.values.clear()
        found = odeint(field, swung(0.0), t, method="scipy_solver", options=options)
        counts.append(len(field.values))
        assert (found[1] - swung(2.0)).abs().max() < 1e-4
    assert counts[1] > 2 * counts[0]
    # Names that torchdiffeq takes and ignores.
    ignored = {"grid_points": None, "eps": None, "norm": None, "min_step": 0}
    odeint(swing, swung(0.0), t, method="scipy_solver", options=ignored)


# --- and all others --------------------------------------------------------------------------


@pytest.mark.parametrize("method", SOLVERS)
def test_unknown_options_are_warned_of(method: str) -> None:
    with pytest.warns(UserWarning, match=r"Unexpected arguments \{'stepsize': 0.1\}") as caught:
        odeint(swing, swung(0.0), times(0.0, 0.1), method=method, options={"stepsize": 0.1})
    assert caught[0].filename == __file__


def test_options_of_the_other_kind_of_method_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="'first_step'"):
        odeint(swing, swung(0.0), times(0.0, 0.1), method="euler", options={"first_step": 0.1})
    with pytest.warns(UserWarning, match="'step_size'"):
        odeint(swing, swung(0.0), times(0.0, 0.1), options={"step_size": 0.1})


def test_options_are_not_changed() -> None:
    options = {"step_size": 0.1, "perturb": True}
    odeint(swing, swung(0.0), times(0.0, 1.0), method="rk4", options=options)
    assert options == {"step_size": 0.1, "perturb": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odeint(swing, swung(0.0), times(0.0, 1.0), options={})


def test_the_errors_of_a_solve_that_failed_carry_what_was_found() -> None:
    with pytest.raises(MaxNumStepsError) as caught:
        odeint(swing, swung(0.0), times(0.0, 1.0), options={"max_step": 0.1, "max_num_steps": 4})
    assert isinstance(caught.value, ic.MaxStepsError)
    assert 0.0 < caught.value.time < 1.0
