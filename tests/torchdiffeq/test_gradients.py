"""Gradients: exact for `odeint`, from the reverse solve for `odeint_adjoint`, and of what."""

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from isocline.torchdiffeq import SOLVERS, odeint, odeint_adjoint

from ..known import Watched

FIXED = [name for name, method in SOLVERS.items() if not method.adaptive and not method.boxed]
EVERY = pytest.mark.parametrize("method", SOLVERS)


class Net(nn.Module):
    """A field that depends on time, with a part that it never uses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.unused = nn.Linear(2, 2)
        self.double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.layer(y)) * torch.cos(t)


def times(*values: float, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def problem() -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(1)
    return Net(), torch.randn(2, 3, dtype=torch.float64, requires_grad=True), times(0.0, 0.4, 1.0)


def gradients(solve: Callable[..., Tensor], **arguments: Any) -> list[Tensor]:
    net, y0, t = problem()
    found = solve(net, y0, t, **arguments)
    weights = torch.linspace(-1, 2, found.numel(), dtype=found.dtype).view_as(found)
    return list(
        torch.autograd.grad((weights * found).sum(), [y0, net.layer.weight, net.layer.bias])
    )


def arguments(method: str) -> dict[str, Any]:
    return {"method": method, "options": {"step_size": 0.1} if method in FIXED else None}


@functools.cache
def exact_gradients() -> list[Tensor]:
    return gradients(odeint, rtol=1e-10, atol=1e-10)


@EVERY
def test_both_gradients_agree_as_far_as_steps_allow(method: str) -> None:
    low = method in ("fehlberg2", "adaptive_heun")
    tight = {"rtol": 1e-6, "atol": 1e-6} if low else {"rtol": 1e-7, "atol": 1e-7}
    found = gradients(odeint_adjoint, **arguments(method), **tight)
    exact = exact_gradients()
    first_order = ("euler", "implicit_euler")
    rough = 0.3 if method in first_order else 5e-3 if method in FIXED else 1e-3
    for one, other in zip(found, exact, strict=True):
        assert (one - other).abs().max() < rough


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "tsit5", "euler", "rk4", "explicit_adams"])
def test_the_plain_gradient_is_that_of_the_discrete_solve(method: str) -> None:
    """To rounding, however coarse the steps: finite differences of what was computed."""
    torch.manual_seed(2)
    y0 = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    rate = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    options = {"step_size": 0.25} if method in FIXED else {"first_step": 0.25, "max_step": 0.25}

    def solve(y0: Tensor, rate: Tensor) -> Tensor:
        field = lambda t, y: torch.tanh(y @ rate) * torch.cos(t)  # noqa: E731
        loose = {"rtol": 1e3, "atol": 1e3}  # no step is rejected, and none depends on the data
        return odeint(field, y0, times(0.0, 1.0), method=method, options=options, **loose)

    assert gradcheck(solve, (y0, rate))


def test_gradients_of_the_times() -> None:
    net, y0, _ = problem()
    for solve in (odeint, odeint_adjoint):
        t = times(0.0, 0.4, 1.0, grad=True)
        found = solve(net, y0, t, rtol=1e-9, atol=1e-9)
        (gradient,) = torch.autograd.grad(found[1].sum() + 2 * found[2].sum(), t)
        with torch.no_grad():
            assert gradient[1].item() == pytest.approx(net(t[1], found[1]).sum().item(), abs=1e-7)
            slope = 2 * net(t[2], found[2]).sum().item()
            assert gradient[2].item() == pytest.approx(slope, abs=1e-7)
            moved = odeint(net, y0, times(1e-5, 0.4, 1.0), rtol=1e-11, atol=1e-11)
            still = odeint(net, y0, times(0.0, 0.4, 1.0), rtol=1e-11, atol=1e-11)
            change = (moved - still)[1].sum() + 2 * (moved - still)[2].sum()
        assert gradient[0].item() == pytest.approx(change.item() / 1e-5, abs=1e-4)


# --- beyond the first derivative -------------------------------------------------------------


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_second_derivatives(method: str) -> None:
    """Where y0 is itself computed from what the field depends on, nothing is counted twice."""
    torch.manual_seed(3)
    rate = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    shift = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)

    def solve(rate: Tensor, shift: Tensor) -> Tensor:
        field = lambda t, y: torch.tanh(y @ rate) * torch.cos(t) - shift  # noqa: E731
        y0 = torch.tanh(rate @ rate) + shift
        options = {"step_size": 0.25} if method == "rk4" else None
        return odeint(field, y0, times(0.0, 0.6), method=method, options=options)[1]

    assert gradcheck(solve, (rate, shift))
    assert gradgradcheck(solve, (rate, shift))
    plain = torch.autograd.grad(solve(rate, shift).sum(), [rate, shift])
    graph = torch.autograd.grad(solve(rate, shift).sum(), [rate, shift], create_graph=True)
    torch.testing.assert_close(plain, graph)


def test_second_derivatives_in_the_times() -> None:
    t = times(0.1, 0.5, 1.1, grad=True)
    y0 = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)

    def solve(y0: Tensor, t: Tensor) -> Tensor:
        return odeint(lambda t, y: t * y, y0, t, rtol=1e-10, atol=1e-10)

    assert gradgradcheck(solve, (y0, t), atol=1e-4)


def test_a_gradient_penalty_can_be_trained_on() -> None:
    net, y0, t = problem()

    def penalty() -> Tensor:
        (slope,) = torch.autograd.grad(odeint(net, y0, t)[-1].sum(), y0, create_graph=True)
        return slope.square().sum()

    (gradient,) = torch.autograd.grad(penalty(), net.layer.weight)
    direction, eps = torch.randn_like(gradient), 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            net.layer.weight.add_(sign * eps * direction)
        values.append(penalty().item())
        with torch.no_grad():
            net.layer.weight.sub_(sign * eps * direction)
    expected = (values[0] - values[1]) / (2 * eps)
    assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-5)


def test_hooks_see_the_whole_gradient_once() -> None:
    net, y0, t = problem()
    seen: list[Tensor] = []
    net.layer.bias.register_hook(lambda g: seen.append(g.clone()))
    odeint(net, y0, t).sum().backward()
    assert len(seen) == 1
    assert torch.equal(seen[0], net.layer.bias.grad)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_transforms_of_torch_func(method: str) -> None:
    def end(y: Tensor) -> Tensor:
        field = lambda t, y: torch.stack([y[1], -(y[0] ** 3)])  # noqa: E731
        return odeint(field, y, times(0.0, 0.5, 1.0), method=method)[-1]

    y0 = times(1.0, 0.2)
    jacobian = torch.autograd.functional.jacobian(end, y0)
    torch.testing.assert_close(torch.func.jacrev(end)(y0), jacobian)
    tangent = times(1.0, -2.0)
    torch.testing.assert_close(torch.func.jvp(end, (y0,), (tangent,))[1], jacobian @ tangent)
    hessian = torch.autograd.functional.hessian(lambda y: end(y)[0], y0)
    torch.testing.assert_close(torch.func.hessian(lambda y: end(y)[0])(y0), hessian)


# --- which tensors ---------------------------------------------------------------------------


def test_parameters_that_are_not_used_get_zero_from_the_adjoint() -> None:
    net, y0, t = problem()
    odeint_adjoint(net, y0, t)[-1].sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert not net.unused.weight.grad.any()
    assert net.layer.weight.grad.any()


def test_what_a_function_closes_over_is_found() -> None:
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    for solve in (odeint, odeint_adjoint):
        end = solve(lambda t, y: -rate * y, times(2.0), times(0.0, 1.0))[1]
        (gradient,) = torch.autograd.grad(end.sum(), rate)
        assert gradient.item() == pytest.approx(-2.0 * math.exp(-0.7), rel=1e-6)


def test_adjoint_params_are_the_only_ones() -> None:
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    y0 = times(2.0, grad=True)
    field = lambda t, y: -(a + b) * y  # noqa: E731
    for named, rest in (((a,), b), ((b,), a)):
        end = odeint_adjoint(field, y0, times(0.0, 1.0), adjoint_params=named)[1]
        found = torch.autograd.grad(end.sum(), [y0, *named, rest], allow_unused=True)
        assert found[0].item() == pytest.approx(math.exp(-0.9), rel=1e-6)
        assert found[1].item() == pytest.approx(-2.0 * math.exp(-0.9), rel=1e-6)
        assert found[2] is None
    generator = (p for p in (a, b))
    end = odeint_adjoint(field, y0, times(0.0, 1.0), adjoint_params=generator)[1]
    assert all(torch.autograd.grad(end.sum(), [a, b]))
    end = odeint_adjoint(field, times(2.0), times(0.0, 1.0), adjoint_params=())[1]
    assert torch.autograd.grad(end.sum() + 0 * a, [a, b], allow_unused=True)[1] is None


def test_adjoint_params_that_were_computed_hand_their_gradient_on() -> None:
    source = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    rate = source**2
    field = lambda t, y: -rate * y  # noqa: E731
    end = odeint_adjoint(field, times(2.0), times(0.0, 1.0), adjoint_params=(rate,))[1]
    (gradient,) = torch.autograd.grad(end.sum(), source)
    assert gradient.item() == pytest.approx(-2.0 * math.exp(-0.25), rel=1e-6)


# --- the reverse solve -----------------------------------------------------------------------


def test_a_hundred_outputs_do_not_start_a_hundred_solves() -> None:
    """torchdiffeq needs some 1200 evaluations where two outputs take 86."""
    y0 = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    counts = []
    for outputs in (2, 101):
        net, _, _ = problem()
        field = Watched(net)
        t = torch.linspace(0, 1, outputs, dtype=torch.float64)
        found = odeint_adjoint(field, y0, t, rtol=1e-6, atol=1e-6)
        field.values.clear()
        found.sum().backward()
        counts.append(len(field.values))
    assert counts[1] < 8 * 101


@pytest.mark.parametrize("which", ["adjoint_rtol", "adjoint_atol"])
def test_tolerances_of_the_reverse_solve(which: str) -> None:
    """d/d rate of exp(rate sin(9 t) / 9) at t = 2, with looser and tighter reverse solves."""
    errors = []
    for tolerance in (1e-3, 1e-5, torch.tensor(1e-7)):
        rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        end = odeint_adjoint(
            lambda t, y, rate=rate: rate * torch.cos(9 * t) * y,
            times(1.0),
            times(0.0, 2.0),
            **{"adjoint_rtol": 1e-12, "adjoint_atol": 1e-12, which: tolerance},
        )[1]
        (gradient,) = torch.autograd.grad(end, rate)
        angle = math.sin(18.0) / 9
        errors.append(abs(gradient.item() - angle * math.exp(0.7 * angle)))
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


METHODS: dict[str, dict[str, Any]] = {
    "adaptive, then fixed": {"adjoint_method": "rk4", "adjoint_options": {"step_size": 0.01}},
    "fixed, then adaptive": {
        "method": "rk4", "options": {"step_size": 0.01},
        "adjoint_method": "dopri5", "adjoint_options": {},
    },
    "fixed, then other steps": {
        "method": "rk4", "options": {"step_size": 0.01}, "adjoint_options": {"step_size": 0.02},
    },
    "adaptive, then SciPy's": {"adjoint_method": "scipy_solver"},
    "SciPy's, then adaptive": {"method": "scipy_solver", "adjoint_method": "dopri5"},
    "SciPy's, then fixed": {
        "method": "scipy_solver", "adjoint_method": "rk4", "adjoint_options": {"step_size": 0.01},
    },
    "options for both": {
        "options": {"first_step": 0.01, "max_step": 0.1, "norm": lambda e: e.abs().max()},
    },
    "limits of its own": {"adjoint_options": {"max_num_steps": 1000, "step_t": times(0.7)}},
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_methods_of_the_reverse_solve(name: str) -> None:
    exact = gradients(odeint, rtol=1e-10, atol=1e-10)
    found = gradients(odeint_adjoint, rtol=1e-7, atol=1e-8, **METHODS[name])
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)


def test_limits_of_the_reverse_solve_are_its_own() -> None:
    with pytest.raises(RuntimeError, match="step limit"):
        gradients(odeint_adjoint, adjoint_options={"max_num_steps": 2, "max_step": 0.01})


def test_a_grid_constructor_is_asked_for_the_way_back() -> None:
    seen: list[list[float]] = []

    def grid(func: Any, y0: Tensor, t: Tensor) -> Tensor:
        seen.append(t.tolist())
        return torch.linspace(t[0].item(), t[-1].item(), 11, dtype=torch.float64)

    y0 = times(1.0, grad=True)
    field = Watched(lambda t, y: y)
    options = {"grid_constructor": grid}
    end = odeint_adjoint(field, y0, times(0.0, 1.0), method="euler", options=options)[1]
    assert end.item() == pytest.approx(1.1**10)
    field.values.clear()
    end.backward()
    assert seen == [[0.0, 1.0], [1.0, 0.0]]
    assert sorted(set(field.values), reverse=True) == pytest.approx(
        [k / 10 for k in range(10, 0, -1)]
    )
    assert y0.grad.item() == pytest.approx(1.1**10)  # Euler, backward as forward


def test_seminorm() -> None:
    """The parameters' errors are left out: not more evaluations, and the same gradient."""
    counts, found = [], []
    for options in ({}, {"norm": "seminorm"}):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 200), nn.Tanh(), nn.Linear(200, 2)).double()
        field = Watched(lambda t, y, net=net: net(y) * torch.sin(9 * t))
        y0 = torch.ones(1, 2, dtype=torch.float64)
        end = odeint_adjoint(
            field, y0, times(0.0, 1.0), adjoint_options=options, adjoint_params=net.parameters()
        )
        field.values.clear()
        end.sum().backward()
        counts.append(len(field.values))
        found.append(net[0].weight.grad)
    assert counts[1] < counts[0]
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("single", [True, False], ids=["tensor", "tuple"])
def test_a_norm_of_the_users_own_sees_the_whole_adjoint_state(single: bool) -> None:
    """(t, y, adjoint of y, adjoints of the parameters): with the entries of a tuple in a row."""
    a = torch.rand(7, dtype=torch.float64, requires_grad=True)
    b = torch.rand((), dtype=torch.float64, requires_grad=True)
    shapes = set()

    def norm(state: Any) -> Tensor:
        shapes.add(tuple(tuple(part.shape) for part in state))
        return torch.stack([part.abs().max() for part in state]).max()

    y0: Any = times(1.0, 2.0)
    field: Any = lambda t, y: -b * y * a.sum()  # noqa: E731
    expected: list[tuple[int, ...]] = [(), (2,), (2,), (7,), ()]
    if not single:
        y0 = (times(1.0, 2.0), torch.ones(2, 2, dtype=torch.float64))
        field = lambda t, y: tuple(-b * part * a.sum() for part in y)  # noqa: E731
        expected = [(), (2,), (2, 2), (2,), (2, 2), (7,), ()]
    options = {"norm": norm}
    found = odeint_adjoint(
        field, y0, times(0.0, 1.0), adjoint_params=(a, b), adjoint_options=options
    )
    assert not shapes
    (found if single else found[0])[1].sum().backward()
    assert shapes == {tuple(expected)}
    assert b.grad.item() == pytest.approx(
        -3.0 * a.sum().item() * math.exp(-b.item() * a.sum().item()), rel=1e-6
    )


# --- fields that draw random numbers ---------------------------------------------------------


class Noisy(nn.Module):
    """Draws its noise at the first evaluation of a solve and keeps it, as FFJORD's fields do."""

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self.layer, self.keep = nn.Linear(2, 2).double(), keep
        self.noise: Tensor | None = None

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        if self.noise is None or not self.keep:
            self.noise = torch.randn_like(y)
        return torch.tanh(self.layer(y)) + 1e-9 * self.noise


@pytest.mark.parametrize("solve", [odeint, odeint_adjoint])
def test_noise_that_is_drawn_once_is_no_hindrance(solve: Any) -> None:
    net = Noisy(keep=True)
    solve(net, times(1.0, 2.0), times(0.0, 1.0))[1].sum().backward()
    assert net.layer.weight.grad.any()


def test_noise_at_each_evaluation_is_differentiated_through() -> None:
    net = Noisy(keep=False)
    loose = {"rtol": 1e-4, "atol": 1e-4}
    odeint(net, times(1.0, 2.0), times(0.0, 1.0), **loose)[1].sum().backward()
    plain = net.layer.weight.grad.clone()
    net.zero_grad()
    with pytest.warns(UserWarning, match="not by a reverse solve.*random numbers"):
        found = odeint_adjoint(net, times(1.0, 2.0), times(0.0, 1.0), **loose)
    found[1].sum().backward()
    torch.testing.assert_close(net.layer.weight.grad, plain, rtol=0, atol=1e-5)


def test_without_grad_nothing_is_remembered() -> None:
    net, y0, t = problem()
    with torch.no_grad():
        for solve in (odeint, odeint_adjoint):
            assert not solve(net, y0, t).requires_grad
