"""Density matching: KL(q || p) to three targets, CNF and planar NF (Chen et al. 2018, Figure 4).

For each target and each size trains a CNF of M planar units and a planar flow of K layers, both
from base to data, and compares losses and densities. Runs are kept as they end.

    python examples/figure4.py --targets u1 u2 u3 --out runs/figure4
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from fitting import fit
from keep import Result, kept, load_into
from torch import Tensor

import isocline as ic
from isocline import nn, plots
from isocline.data import POTENTIALS, Potential, log_normalizer

SIZES = (2, 8, 32)
BATCH = 512
SCORED = 20_000


@dataclass(frozen=True)
class Recipe:
    """How one kind of model is made and trained."""

    make: Callable[[int], torch.nn.Module]
    iterations: int
    rate: float


def make_cnf(units: int) -> nn.CNF:
    """A flow of so many planar units."""
    return nn.CNF(
        nn.PlanarField(2, units=units, hidden=32),
        2,
        t1=10.0,
        solver="dopri5",
        rtol=1e-4,
        atol=1e-4,
        norm="rms",
        adjoint=ic.Checkpointed(graph_budget=2**30),
    )


def make_nf(layers: int) -> nn.PlanarFlow:
    """A flow of so many planar layers, from base to data."""
    return nn.PlanarFlow(2, layers, direction="base-to-data")


RECIPES = {"cnf": Recipe(make_cnf, 1500, 1e-2), "nf": Recipe(make_nf, 15_000, 5e-3)}


def train(recipe: Recipe, potential: Potential, size: int) -> tuple[torch.nn.Module, Result]:
    """Fit one model; the model, and its loss and cost."""
    torch.manual_seed(0)
    model = recipe.make(size)

    def loss() -> Tensor:
        return nn.reverse_kl(model, potential.log_density, BATCH)

    began = time.process_time()
    title = f"{potential.name}, {type(model).__name__} of {size}"
    for _ in fit(model, loss, recipe.iterations, recipe.rate, title):
        pass
    seconds = time.process_time() - began
    if isinstance(model, nn.CNF):
        model.rtol = model.atol = 1e-5
    torch.manual_seed(1)
    with torch.no_grad():
        x, log_density = model.rsample_and_log_prob(SCORED)
        ratios = log_density - potential.log_density(x)
    return model, {
        "target": potential.name,
        "size": size,
        "iterations": recipe.iterations,
        "seconds_per_iteration": seconds / recipe.iterations,
        "loss": ratios.mean().item(),
        "standard_error": ratios.std().item() / math.sqrt(SCORED),
        "kl": ratios.mean().item() + log_normalizer(potential),
    }


def place(out: Path, target: str, kind: str, size: int) -> Path:
    """Where a run is kept."""
    return out / f"{target}-{kind}-{size}"


def density_of(model: torch.nn.Module, grid: Tensor) -> Tensor:
    """Density on a grid of shape (H, W, 2); of a planar flow by counting samples."""
    shape = grid.shape[:2]
    with torch.no_grad():
        if isinstance(model, nn.CNF):
            return model.log_prob(grid.reshape(-1, 2)).exp().reshape(shape)
        x = model.sample(2_000_000)
    step = grid[1, 1] - grid[0, 0]
    low = grid[0, 0] - step / 2
    column, row = ((x - low) / step).floor().long().unbind(1)
    inside = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
    flat = row[inside] * shape[1] + column[inside]
    counts = torch.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
    density: Tensor = counts / (len(x) * step.prod())
    return density


def draw(targets: list[str], results: dict[tuple[str, str, int], Result], out: Path) -> None:
    """Targets and densities side by side, and the losses."""
    rows = []
    for target in targets:
        potential = POTENTIALS[target]
        grid = plots.grid_points(potential.bounds, 128)
        models = {
            kind: {
                size: density_of(
                    load_into(recipe.make(size), out / f"{target}-{kind}-{size}"), grid
                )
                for size in SIZES
            }
            for kind, recipe in RECIPES.items()
        }
        losses = {
            kind: {size: results[target, kind, size]["loss"] for size in SIZES} for kind in RECIPES
        }
        rows.append(
            plots.DensityMatch(
                name=target,
                target=potential.log_density(grid).exp(),
                cnf=models["cnf"],
                nf=models["nf"],
                cnf_loss=losses["cnf"],
                nf_loss=losses["nf"],
                least_loss=-log_normalizer(potential),
            )
        )
    figure = plots.plot_density_matching(rows, potential.bounds)
    plots.save_figure(figure, out / "figure4.png")


def main() -> None:
    """Train what is missing, then draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--targets", nargs="+", choices=sorted(POTENTIALS), default=["u1", "u2", "u3"]
    )
    parser.add_argument("--out", type=Path, default=Path("runs/figure4"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for target in options.targets:
        for size in SIZES:
            for kind, recipe in RECIPES.items():
                results[target, kind, size] = kept(
                    place(options.out, target, kind, size),
                    lambda recipe=recipe, target=target, size=size: train(
                        recipe, POTENTIALS[target], size
                    ),
                )
    draw(options.targets, results, options.out)


if __name__ == "__main__":
    main()
