"""`options={"stepping": "per_sample"}`: each sample of a batch at its own pace."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.torchdiffeq import SOLVERS, odeint, odeint_adjoint, odeint_dense
from isocline.torchdiffeq.errors import MaxNumStepsError

Solve = Callable[..., Any]
OWN = {"stepping": "per_sample"}
ADAPTIVE = ("dopri8", "dopri5", "tsit5", "bosh3", "fehlberg2", "adaptive_heun")
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4")
OTHERS = sorted(set(SOLVERS) - {*ADAPTIVE, *FIXED})
RATES = torch.tensor([0.1, 2.0, 12.0], dtype=torch.float64)


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def decay(t: Tensor, state: Tensor) -> Tensor:
    """Y' = -rate * y * (1 + t); the rate of each sample stands beside it.

    Products and sums alone, whose bits do not depend on how many samples there are.
    """
    y, rate = state.unbind(-1)
    return torch.stack([-rate * y * (1 + t), torch.zeros_like(rate)], -1)


def start() -> Tensor:
    return torch.stack([torch.ones_like(RATES), RATES], -1)


def decayed(t: Tensor, t0: Tensor) -> Tensor:
    """The first entries of the exact solution, shape (times, samples)."""
    return torch.exp(-RATES * ((t - t0) * (1 + (t + t0) / 2)).unsqueeze(1))


@pytest.mark.parametrize("way", [1, -1], ids=["rising", "falling"])
@pytest.mark.parametrize("method", [*ADAPTIVE, *FIXED])
def test_a_sample_goes_as_it_would_alone(method: str, way: int) -> None:
    t = times(0.0, 0.3, 0.5) if way > 0 else times(0.5, 0.3, 0.0)
    options = OWN | ({"step_size": 0.02} if method in FIXED else {})
    tol = 1e-6 if method.startswith(("dopri", "tsit")) else 1e-4  # within reach of low orders
    how: dict[str, Any] = {"method": method, "options": options, "rtol": tol, "atol": tol}
    with torch.no_grad():
        among = odeint(decay, start(), t, **how)
        for sample in range(len(RATES)):
            alone = odeint(decay, start()[sample : sample + 1], t, **how)
            assert torch.equal(among[:, sample], alone[:, 0])
        joint = odeint(decay, start(), t, **how | {"options": options | {"stepping": "joint"}})
    if method in FIXED:  # the grid is the same for all
        assert torch.allclose(among, joint, rtol=1e-12, atol=0)
    elif method != "fehlberg2":  # which does not hold its tolerance
        assert torch.allclose(among[..., 0], decayed(t, t[0]), rtol=0.01, atol=1e-3)


def test_easy_samples_cost_less_than_hard_ones() -> None:
    rows = {"joint": 0, "per_sample": 0}
    for stepping in rows:

        def counted(t: Tensor, state: Tensor, stepping: str = stepping) -> Tensor:
            assert t.shape == ((len(state),) if stepping == "per_sample" else ())
            rows[stepping] += len(state)
            return decay(t, state)

        with torch.no_grad():
            odeint(counted, start(), times(0.0, 1.0), options={"stepping": stepping})
    assert rows["per_sample"] < 0.7 * rows["joint"]


def test_gradients_are_those_of_the_discrete_solve() -> None:
    def gradients(stepping: str) -> list[Tensor]:
        scale = times(1.0).requires_grad_()
        y0, t = start().requires_grad_(), times(0.0, 0.4, 0.5).requires_grad_()
        found = odeint(
            lambda t, y: scale * decay(t, y), y0, t, rtol=1e-9, atol=1e-9,
            options={"stepping": stepping},
        )  # fmt: skip
        return list(torch.autograd.grad(found[:, :, 0].square().sum(), [y0, t, scale]))

    for own, joint in zip(gradients("per_sample"), gradients("joint"), strict=True):
        assert torch.allclose(own, joint, rtol=1e-6, atol=1e-7)


def test_tuples_and_norms_of_each_sample() -> None:
    def field(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y, rate = state
        return -rate * y * (1 + t).unsqueeze(1), torch.zeros_like(rate)

    y0 = (torch.ones(3, 1, dtype=torch.float64), RATES.unsqueeze(1))
    t = times(0.0, 0.5)
    sizes = []

    def norm(error: tuple[Tensor, Tensor]) -> Tensor:
        sizes.append(len(error[0]))
        return error[0].abs().amax(1)

    ends, rates = odeint(field, y0, t, rtol=1e-6, atol=1e-6, options=OWN | {"norm": norm})
    assert torch.allclose(ends[..., 0], decayed(t, t[0]), rtol=1e-4, atol=1e-5)
    assert torch.equal(rates[-1], y0[1])
    assert max(sizes) == 3


def test_other_options_mean_what_they_mean() -> None:
    t = times(0.0, 0.5)
    with pytest.raises(MaxNumStepsError, match=r"max_num_steps exceeded"):
        odeint(decay, start(), t, options=OWN | {"max_step": 0.01, "max_num_steps": 10})
    seen: list[float] = []

    def watched(t: Tensor, state: Tensor) -> Tensor:
        seen.extend(t.tolist())
        return decay(t, state)

    odeint(watched, start(), t, options=OWN | {"step_t": times(0.123)})
    assert seen.count(0.123) >= len(RATES)


def test_dense_output_of_each_sample() -> None:
    path = odeint_dense(decay, start(), 0.0, 0.5, rtol=1e-8, atol=1e-8, options=OWN)
    t = times(0.1, 0.37, 0.5)
    assert torch.allclose(path(t)[..., 0], decayed(t, times(0.0)), rtol=1e-5, atol=1e-6)


# --- the reverse solve -------------------------------------------------------------------------


class Scaled(torch.nn.Module):
    """`decay` with a factor for each entry, and a parameter that nothing depends on.

    Args:
        told: is given the number of samples at each evaluation.
    """

    def __init__(self, told: Callable[[int], None] = lambda rows: None) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(times(1.1, 1.0))
        self.unused = torch.nn.Parameter(times(1.0))
        self.told = told

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        self.told(len(state))
        return self.scale * decay(t, state)


def gradients(
    solve: Solve, *, t: Tensor | None = None, samples: slice = slice(None), **how: Any
) -> dict[str, Tensor]:
    """The states, and gradients to everything, of a loss that sees some outputs of some samples."""
    field, y0 = Scaled(), start()[samples].requires_grad_()
    t = (times(0.0, 0.2, 0.3, 0.5) if t is None else t).requires_grad_()
    found = solve(field, y0, t, **{"rtol": 1e-7, "atol": 1e-7, "options": OWN, **how})
    loss = found[1].sin().sum() + found[-1, :, 0].square().sum()
    wanted = {"y0": y0, "t": t, "scale": field.scale}
    gradient = torch.autograd.grad(loss, list(wanted.values()))
    return {"states": found.detach(), **dict(zip(wanted, gradient, strict=True))}


@functools.cache
def exactly(way: int = 1) -> dict[str, Tensor]:
    """The same, of the exact solution."""
    t = times(0.0, 0.2, 0.3, 0.5) if way > 0 else times(0.5, 0.3, 0.2, 0.0)
    return gradients(odeint, t=t, method="dopri8", rtol=1e-12, atol=1e-13, options={})


def agree(found: dict[str, Tensor], expected: dict[str, Tensor], tol: float) -> None:
    for name, value in expected.items():
        assert float((found[name] - value).norm()) < tol * float(1 + value.norm()), name


@pytest.mark.parametrize("way", [1, -1], ids=["rising", "falling"])
@pytest.mark.parametrize("method", ["dopri8", "dopri5", "tsit5", "bosh3"])
def test_the_adjoint_of_each_sample_is_near_the_exact_gradient(method: str, way: int) -> None:
    """And nearer where the tolerance is lower; the states are those of `odeint`, to the bit."""
    t = times(0.0, 0.2, 0.3, 0.5) if way > 0 else times(0.5, 0.3, 0.2, 0.0)
    for tol in (1e-4, 1e-6):
        found = gradients(odeint_adjoint, t=t.clone(), method=method, rtol=tol, atol=tol)
        agree(found, exactly(way), 1000 * tol)
    plain = gradients(odeint, t=t.clone(), method=method, rtol=1e-6, atol=1e-6)
    assert torch.equal(found["states"], plain["states"])


@pytest.mark.parametrize("method", FIXED)
def test_on_a_fixed_grid_it_is_what_joint_stepping_gives(method: str) -> None:
    """The steps are the same there, so the adjoint is the same number."""
    step = {"step_size": 0.02}
    found, joint = (
        gradients(odeint_adjoint, method=method, options=step | {"stepping": stepping})
        for stepping in ("per_sample", "joint")
    )
    agree(found, joint, 1e-11)


def test_a_samples_adjoint_does_not_depend_on_the_others() -> None:
    among = gradients(odeint_adjoint)
    for sample in range(len(RATES)):
        alone = gradients(odeint_adjoint, samples=slice(sample, sample + 1))
        assert torch.equal(among["y0"][sample], alone["y0"][0])


def test_going_back_easy_samples_cost_less_too() -> None:
    rows = {}
    for stepping in ("joint", "per_sample"):
        counted: list[int] = []
        y0 = start().requires_grad_()
        options = {"stepping": stepping}
        found = odeint_adjoint(Scaled(counted.append), y0, times(0.0, 0.5), options=options)
        forward = len(counted)
        found.sum().backward()
        rows[stepping] = sum(counted[forward:])
    assert rows["per_sample"] < 0.8 * rows["joint"]


REVERSE: dict[str, dict[str, Any]] = {
    "another method": {"adjoint_method": "tsit5"},
    "a fixed grid": {"adjoint_method": "rk4", "adjoint_options": {"step_size": 0.01}},
    "options of its own": {"adjoint_options": {"first_step": 0.01, "step_t": times(0.123)}},
    "said twice": {"adjoint_options": {"stepping": "per_sample"}},
    "seminorm": {"adjoint_options": {"norm": "seminorm"}},
    "tolerances": {"adjoint_rtol": 1e-8, "adjoint_atol": 1e-8},
    "of each entry": {"adjoint_rtol": times(1e-8, 1e-7), "adjoint_atol": 1e-7 * start()},
}


@pytest.mark.parametrize("name", REVERSE)
def test_what_the_reverse_solve_may_be_asked_for(name: str) -> None:
    agree(gradients(odeint_adjoint, **REVERSE[name]), exactly(), 1e-4)


def test_adjoint_tolerances_are_followed() -> None:
    exact = exactly()["scale"]
    loose, tight = (
        gradients(odeint_adjoint, adjoint_rtol=tol, adjoint_atol=tol) for tol in (1e-2, 1e-7)
    )
    assert float((loose["scale"] - exact).norm()) > 100 * float((tight["scale"] - exact).norm())
    with pytest.raises(ic.MaxStepsError):
        gradients(odeint_adjoint, adjoint_options={"max_num_steps": 1, "max_step": 0.01})


def test_the_norm_of_the_reverse_solve_sees_samples() -> None:
    """(t, y, adjoint of y, adjoints of parameters): of samples, and zeros for the parameters."""
    seen = []

    def norm(state: tuple[Tensor, ...]) -> Tensor:
        time, y, adjoint, *rest = state
        seen.append(len(y))
        assert y.shape == adjoint.shape
        assert [part.shape for part in rest] == [(2,), (1,)]
        assert not any(bool(part.any()) for part in (time, *rest))
        return torch.maximum(y.abs().amax(1), adjoint.abs().amax(1))

    found = gradients(odeint_adjoint, adjoint_options={"norm": norm})
    agree(found, exactly(), 1e-4)
    assert max(seen) == len(RATES)


@pytest.mark.parametrize("named", ["given", "found"])
def test_parameters_of_the_adjoint(named: str) -> None:
    """Given, they alone get a gradient; found in the module, each gets one, be it zero."""
    field = Scaled()
    params = {} if named == "found" else {"adjoint_params": (field.scale,)}
    odeint_adjoint(field, start(), times(0.0, 0.5), options=OWN, **params)[-1].sum().backward()
    assert field.scale.grad is not None
    if named == "found":
        assert field.unused.grad is not None
        assert not bool(field.unused.grad.any())
    else:
        assert field.unused.grad is None


def test_tuples_have_an_adjoint_of_each_sample() -> None:
    rate = RATES.unsqueeze(1).requires_grad_()

    def field(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return -state[1] * state[0] * (1 + t).unsqueeze(1), torch.zeros_like(state[1])

    y = torch.ones(3, 1, dtype=torch.float64)
    ends = odeint_adjoint(
        field, (y, rate), times(0.0, 0.5), rtol=1e-7, atol=1e-7, options=OWN,
        adjoint_rtol=(1e-8, 1e-7),
    )[0]  # fmt: skip
    (found,) = torch.autograd.grad(ends[-1].sum(), rate)
    # y(t) = exp(-rate (t + t^2 / 2))
    assert torch.allclose(found, -0.625 * torch.exp(-0.625 * rate.detach()), rtol=1e-4, atol=1e-6)


def test_without_gradients_nothing_is_solved_back() -> None:
    with torch.no_grad():
        found = odeint_adjoint(decay, start(), times(0.0, 0.5), options=OWN)
        assert torch.equal(found, odeint(decay, start(), times(0.0, 0.5), options=OWN))


# --- what cannot be had ----------------------------------------------------------------------


@pytest.mark.parametrize("method", OTHERS)
def test_other_methods_say_that_they_step_jointly(method: str) -> None:
    with pytest.raises(ic.InputError, match="per_sample"):
        odeint(decay, start(), times(0.0, 0.1), method=method, options=OWN)


class Told:
    """A field with a callback."""

    def __call__(self, t: Tensor, state: Tensor) -> Tensor:
        return decay(t, state)

    def callback_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        """Nothing."""


REFUSED: dict[str, tuple[Solve, dict[str, Any]]] = {
    "event_fn": (lambda **how: odeint(**how, event_fn=lambda t, y: y[0, 0]), {}),
    "callbacks": (lambda **how: odeint(**how | {"func": Told()}), {}),
    "jump_t": (odeint, {"jump_t": times(0.2)}),
    "perturb": (lambda **how: odeint(**how, method="rk4"), {"perturb": True}),
    "min_step": (odeint, {"min_step": 1e-3}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_samples_share_is_refused(name: str) -> None:
    solve, options = REFUSED[name]
    with pytest.raises(ic.InputError, match=name):
        solve(func=decay, y0=start(), t=times(0.0, 0.5), options=OWN | options)


class ToldBackward(Told):
    """A field with a callback of the reverse solve."""

    callback_step = None  # type: ignore[assignment]

    def callback_step_adjoint(self, t0: Tensor, y0: Any, dt: Tensor) -> None:
        """Nothing."""


REFUSED_BACKWARD: dict[str, dict[str, Any]] = {
    "event_fn": {"event_fn": lambda t, y: y[0, 0]},
    "the callbacks of func": {"func": ToldBackward()},
    "`solver`: given RadauIIA3": {"method": "radauIIA3"},
    r"`Backsolve\.solver`: given RadauIIA3": {"adjoint_method": "radauIIA3"},
    "`adjoint_method='scipy_solver'": {"adjoint_method": "scipy_solver"},
    r"adjoint_options\['jump_t'\]": {"adjoint_options": {"jump_t": times(0.2)}},
    r"adjoint_options\['perturb'\]": {
        "adjoint_method": "rk4", "adjoint_options": {"step_size": 0.1, "perturb": True},
    },
    r"adjoint_options\['min_step'\]": {"adjoint_options": {"min_step": 1e-3}},
    r"adjoint_options\['stepping'\]": {"adjoint_options": {"stepping": "joint"}},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_BACKWARD)
def test_what_samples_share_is_refused_backward_too(name: str) -> None:
    call = {"func": decay, "y0": start().requires_grad_(), "t": times(0.0, 0.5), "options": OWN}
    with pytest.raises(ic.InputError, match=name):
        odeint_adjoint(**call | REFUSED_BACKWARD[name])


def test_the_reverse_solve_alone_cannot_be_asked_for_it() -> None:
    y0 = start().requires_grad_()
    with pytest.raises(ic.InputError, match=r"adjoint_options\['stepping'\]"):
        odeint_adjoint(decay, y0, times(0.0, 0.5), adjoint_options=OWN)


def test_an_unknown_stepping_is_an_error() -> None:
    with pytest.raises(ic.InputError, match=r"options\['stepping'\]`: given 'alone'"):
        odeint(decay, start(), times(0.0, 0.5), options={"stepping": "alone"})
