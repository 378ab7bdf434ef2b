"""`options={"stepping": "per_sample"}`: each sample of a batch at its own pace."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.torchdiffeq import SOLVERS, odeint, odeint_adjoint, odeint_dense
from isocline.torchdiffeq.errors import MaxNumStepsError

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


Solve = Callable[..., Any]
REFUSED: dict[str, tuple[Solve, dict[str, Any]]] = {
    "event_fn": (lambda **how: odeint(**how, event_fn=lambda t, y: y[0, 0]), {}),
    "callbacks": (lambda **how: odeint(**how | {"func": Told()}), {}),
    "jump_t": (odeint, {"jump_t": times(0.2)}),
    "perturb": (lambda **how: odeint(**how, method="rk4"), {"perturb": True}),
    "min_step": (odeint, {"min_step": 1e-3}),
    "odeint_adjoint": (odeint_adjoint, {}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_samples_share_is_refused(name: str) -> None:
    solve, options = REFUSED[name]
    with pytest.raises(ic.InputError, match=name):
        solve(func=decay, y0=start(), t=times(0.0, 0.5), options=OWN | options)


def test_a_reverse_solve_cannot_be_asked_for_it() -> None:
    y0 = start().requires_grad_()
    with pytest.raises(ic.InputError, match="stepping"):
        odeint_adjoint(decay, y0, times(0.0, 0.5), adjoint_options=OWN)


def test_an_unknown_stepping_is_an_error() -> None:
    with pytest.raises(ic.InputError, match=r"options\['stepping'\]`: given 'alone'"):
        odeint(decay, start(), times(0.0, 0.5), options={"stepping": "alone"})
