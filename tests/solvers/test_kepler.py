"""The Kepler orbit: energy without drift over many steps, and the way back."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.solvers.symplectic import Splitting

METHODS: list[Splitting] = [
    ic.Leapfrog(),
    ic.Yoshida4(autonomous=True),
    ic.Yoshida6(autonomous=True),
    ic.KahanLi8(),
]
EVERY = pytest.mark.parametrize("method", METHODS, ids=repr)


def pericentre(eccentricity: float) -> Tensor:
    speed = math.sqrt((1 + eccentricity) / (1 - eccentricity))
    return torch.tensor([1 - eccentricity, 0.0, 0.0, speed], dtype=torch.float64)


def kepler(t: Tensor, y: Tensor) -> Tensor:
    q, p = y[:2], y[2:]
    return torch.cat([p, -q * (q @ q) ** -1.5])


def energy(t: Tensor, y: Tensor) -> Tensor:
    q, p = y[:2], y[2:]
    return 0.5 * (p @ p) - (q @ q) ** -0.5


def energy_error(method: Any, steps: int, budget: float = 861) -> tuple[float, float, float]:
    """Greatest error of the Kepler orbit's energy, its deviation, and its drift over the span.

    The eccentricity is 0.6. The drift is that of the least-squares line.
    """
    h = 2 * math.pi * method.evaluations_per_step / budget
    save = ic.SaveAt(steps=True, fn=energy)
    with torch.no_grad():
        sol = ic.solve(
            kepler, pericentre(0.6), 0, steps * h, solver=method, dt0=h, save=save,
            max_steps=2 * steps,
        )  # fmt: skip
    errors, times = 2 * (sol.ys + 0.5), sol.ts - sol.ts.mean()
    slope = (times * errors).sum() / times.square().sum()
    drift = (slope * (times[-1] - times[0])).abs().item()
    return errors.abs().max().item(), errors.std().item(), drift


BOUNDS = {2: 2e-3, 4: 2e-4, 6: 6e-5, 8: 3e-5}


def has_no_drift(method: Splitting, steps: int, share: float) -> None:
    """A line through a periodic error has a slope by chance: less of it, the more periods."""
    greatest, deviation, drift = energy_error(method, steps)
    assert greatest < BOUNDS[method.order]
    assert drift < share * deviation


def test_the_energy_of_a_kepler_orbit_does_not_drift_under_leapfrog() -> None:
    has_no_drift(ic.Leapfrog(), 6000, share=0.1)


def test_under_a_method_that_is_not_symplectic_it_drifts() -> None:
    greatest, deviation, drift = energy_error(ic.RK4(), 3000)
    assert drift > 3 * deviation
    assert drift > 0.9 * greatest


@pytest.mark.slow
@EVERY
def test_the_energy_of_a_kepler_orbit_does_not_drift_over_1e5_steps(method: Splitting) -> None:
    has_no_drift(method, 100_000, share=0.01)


@pytest.mark.parametrize("steps", [250, pytest.param(1000, marks=pytest.mark.slow)])
@EVERY
def test_many_steps_and_back(method: Splitting, steps: int) -> None:
    with torch.no_grad():
        options = {"solver": method, "dt0": 0.01}
        there = ic.solve(kepler, pericentre(0.3), 0, steps / 100, **options).ys[-1]
        back = ic.solve(kepler, there, steps / 100, 0, **options).ys[-1]
    assert (there - pericentre(0.3)).abs().max() > 0.1
    torch.testing.assert_close(back, pericentre(0.3), rtol=0, atol=1e-12)
