"""The energy of a Kepler orbit over 100,000 steps: symplectic methods, and RK4 beside them.

Eccentricity 0.6, constant steps, the same number of evaluations a period for every method. Printed:
the greatest error of the energy, its deviation about its mean, and its drift, which is the slope
of a straight line through all errors times the span. Drawn: the greatest error in each stretch
of time.

    python examples/kepler.py --out docs/assets
"""

from __future__ import annotations

import argparse
import math
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import isocline as ic
from isocline.plots import new_figure, save_figure, style

ECCENTRICITY = 0.6
PERIOD = 2 * math.pi
BUDGET = 861  # evaluations a period; the orbit and the steps should not come into phase
METHODS = (
    ic.Leapfrog(),
    ic.Yoshida4(autonomous=True),
    ic.Yoshida6(autonomous=True),
    ic.KahanLi8(),
    ic.RK4(),
)


class Found(NamedTuple):
    """Relative errors of the energy, one a step, and their times in periods."""

    name: str
    times: Tensor
    errors: Tensor

    @property
    def drift(self) -> float:
        """Slope of the least-squares line, times the span."""
        about = self.times - self.times.mean()
        slope = (about * self.errors).sum() / about.square().sum()
        return (slope * (self.times[-1] - self.times[0])).item()


def start() -> Tensor:
    """Pericentre of an orbit with semi-major axis 1; positions, then momenta."""
    speed = math.sqrt((1 + ECCENTRICITY) / (1 - ECCENTRICITY))
    return torch.tensor([1 - ECCENTRICITY, 0.0, 0.0, speed], dtype=torch.float64)


def kepler(t: Tensor, y: Tensor) -> Tensor:
    """A planet about a fixed sun of mass 1."""
    q, p = y[:2], y[2:]
    return torch.cat([p, -q * (q @ q) ** -1.5])


def energy(t: Tensor, y: Tensor) -> Tensor:
    """Kinetic and potential energy; -1/2 on this orbit."""
    q, p = y[:2], y[2:]
    return 0.5 * (p @ p) - (q @ q) ** -0.5


def orbit(method: ic.Solver, steps: int) -> Found:
    """The error of the energy after each of so many steps."""
    h = PERIOD * method.evaluations_per_step / BUDGET
    sol = ic.solve(
        kepler, start(), 0.0, steps * h, solver=method, dt0=h, max_steps=2 * steps,
        save=ic.SaveAt(steps=True, fn=energy), progress=True,
    )  # fmt: skip
    return Found(method.name, sol.ts / PERIOD, (sol.ys + 0.5) / 0.5)


def draw(every: list[Found], path: Path) -> None:
    """The greatest error in each of 60 stretches of time, equal on a logarithmic axis."""
    with style():
        figure, (axes,) = new_figure(width=7.0, height=3.6)
        for found in every:
            edges = torch.logspace(0.0, math.log10(found.times[-1].item()), 61, dtype=torch.float64)
            rows = torch.searchsorted(found.times, edges).tolist()
            spans = [(a, b) for a, b in pairwise(rows) if a < b]
            axes.loglog(
                [found.times[b - 1].item() for _, b in spans],
                [found.errors[a:b].abs().max().item() for a, b in spans],
                label=found.name,
            )
        axes.set_xlabel("periods")
        axes.set_ylabel("relative error of the energy")
        axes.legend(ncols=3, loc="upper left")
        axes.set_xlim(1.0, 5e3)
        axes.set_ylim(3e-6, 3e-2)
        save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/kepler"))
    parser.add_argument("--steps", type=int, default=100_000)
    options = parser.parse_args()
    with torch.no_grad():
        every = [orbit(method, options.steps) for method in METHODS]
    print(f"{'':10s}{'periods':>9s}{'greatest':>10s}{'deviation':>11s}{'drift':>10s}")
    for found in every:
        greatest, deviation = found.errors.abs().max().item(), found.errors.std().item()
        print(
            f"{found.name:10s}{found.times[-1].item():9.0f}{greatest:10.1e}{deviation:11.1e}"
            f"{found.drift:10.1e}"
        )
    draw(every, options.out / "kepler.png")


if __name__ == "__main__":
    main()
