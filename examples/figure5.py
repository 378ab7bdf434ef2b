"""Maximum likelihood: a continuous planar flow beside a discrete one (Chen et al. 2018, Figure 5).

Trains, for each seed, a CNF of 64 planar units and a planar flow of 64 layers on the same stream of
points, and scores both on 10,000 held-out ones against the true density. Each run is kept as it
ends; a second call goes on where the first was stopped, and draws the figure.

    python examples/figure5.py --data two-circles --out runs/figure5
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
from isocline.data import TOY2D, Toy2D

HELD_OUT = 10_000
BATCH = 512
# The authors' example starts from a narrow base on the circles, which lie within two units.
BASE_SCALE = {"two-circles": math.sqrt(0.1)}


@dataclass(frozen=True)
class Recipe:
    """How one model is made and trained."""

    make: Callable[[str], torch.nn.Module]
    iterations: int
    rate: float


def make_cnf(data: str) -> nn.CNF:
    """The paper's flow: 64 planar units, weights by a hypernetwork of width 32, t in [0, 10]."""
    return nn.CNF(
        nn.PlanarField(2, units=64, hidden=32),
        2,
        base=nn.StandardNormal(torch.Size([2]), BASE_SCALE.get(data, 1.0)),
        t1=10.0,
        solver="dopri5",
        rtol=1e-5,
        atol=1e-5,
        norm="rms",  # in training; the score below holds the tolerance for each point
        adjoint=ic.Checkpointed(graph_budget=2**30),
    )


def make_nf(data: str) -> nn.PlanarFlow:
    """Its rival: 64 planar layers, from data to base."""
    del data
    return nn.PlanarFlow(2, layers=64)


RECIPES = {"cnf": Recipe(make_cnf, 2000, 5e-3), "nf": Recipe(make_nf, 10_000, 1e-2)}


def train(recipe: Recipe, toy: Toy2D, seed: int) -> tuple[torch.nn.Module, dict[str, float]]:
    """Fit one model; the model, and what it cost."""
    torch.manual_seed(seed)
    points = torch.Generator().manual_seed(seed)
    model = recipe.make(toy.name)

    def loss() -> Tensor:
        return -model.log_prob(toy.sample(BATCH, points)).mean()

    forward = backward = 0
    began = time.process_time()
    for _ in fit(model, loss, recipe.iterations, recipe.rate, f"{toy.name}, seed {seed}"):
        if isinstance(model, nn.CNF):
            forward += model.nfe_forward
            backward += model.nfe_backward
    seconds = time.process_time() - began
    count = recipe.iterations
    return model, {
        "iterations": count,
        "seconds_per_iteration": seconds / count,
        "nfe_forward": forward / count,
        "nfe_backward": backward / count,
    }


def score(model: torch.nn.Module, toy: Toy2D) -> dict[str, float]:
    """Negative log-likelihood of held-out points in nats, with that of the true density."""
    x = toy.sample(HELD_OUT, torch.Generator().manual_seed(10_000))
    if isinstance(model, nn.CNF):
        model.norm = None
    with torch.no_grad():
        found = -torch.cat([model.log_prob(part) for part in x.split(2000)])
    return {
        "held_out": found.mean().item(),
        "standard_error": found.std().item() / math.sqrt(HELD_OUT),
        "true_density": -toy.log_density(x).mean().item(),
        "nfe_trained": float(getattr(model, "nfe_forward", 0)),
    }


def run(name: str, toy: Toy2D, seed: int, out: Path) -> Result:
    """Train and score one model, unless that was done before."""

    def compute() -> tuple[torch.nn.Module, Result]:
        model, cost = train(RECIPES[name], toy, seed)
        return model, {"data": toy.name, "model": name, "seed": seed, **cost, **score(model, toy)}

    return kept(out / f"{toy.name}-{name}-{seed}", compute)


def frames(model: torch.nn.Module, toy: Toy2D, grid: Tensor) -> list[plots.FlowFrame]:
    """Density and samples of a CNF at 5 to 100 % of the time, of a planar flow by layers."""
    flat, shape = grid.reshape(-1, 2), grid.shape[:2]
    torch.manual_seed(0)
    found = []
    with torch.no_grad():
        if isinstance(model, nn.CNF):
            for share in (0.05, 0.2, 0.4, 0.6, 0.8, 1.0):
                t = share * model.t1
                density = model.log_prob(flat, t=t).exp().reshape(shape)
                found.append(plots.FlowFrame(share, density, model.sample(10_000, t=t)))
            return found
        # From data to base a planar flow has densities and no samples: show what its last K layers
        # make a density of, and where the layers before them take the data. The spaces between
        # have scales of their own: each is drawn in that of the data.
        data = toy.sample(10_000, torch.Generator().manual_seed(1))
        for k in (2, 8, 16, 32, 48, 64):
            samples = data if k == 64 else layers_of(model, slice(0, 64 - k))(data).value
            scale = samples.std(0) / data.std(0)
            points = (flat - data.mean(0)) * scale + samples.mean(0)
            log_density = layers_of(model, slice(64 - k, 64)).log_prob(points) + scale.log().sum()
            drawn = (samples - samples.mean(0)) / scale + data.mean(0)
            found.append(plots.FlowFrame(f"K = {k}", log_density.exp().reshape(shape), drawn))
    return found


def layers_of(flow: nn.PlanarFlow, which: slice) -> nn.PlanarFlow:
    """A planar flow of some of the layers of another."""
    weights = {name: weight[which] for name, weight in flow.state_dict().items()}
    part = nn.PlanarFlow(2, len(weights["bias"]), base=flow.base)
    part.load_state_dict(weights)
    return part


def draw(toy: Toy2D, out: Path) -> None:
    """The figure, from the first seed's models."""
    grid = plots.grid_points(toy.bounds, 160)
    rows = {}
    for name, title in (("cnf", "CNF"), ("nf", "planar NF")):
        model = load_into(RECIPES[name].make(toy.name), out / f"{toy.name}-{name}-0")
        rows[title] = frames(model, toy, grid)
    data = toy.sample(10_000, torch.Generator().manual_seed(2))
    figure = plots.plot_sequence(rows, data, toy.bounds)
    plots.save_figure(figure, out / f"figure5-{toy.name}.png")


def table(results: list[Result]) -> str:
    """Markdown: a row for each model and seed."""
    lines = [
        (
            "| data | model | seed | held-out nats | above the true density | s an iteration "
            "| NFE in training | NFE at the end |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in results:
        forward = f"{one['nfe_forward']:.0f}" if one["nfe_forward"] else ""
        trained = f"{one['nfe_trained']:.0f}" if one["nfe_trained"] else ""
        lines.append(
            f"| {one['data']} | {one['model']} | {one['seed']} | {one['held_out']:.4f} | "
            f"{one['held_out'] - one['true_density']:.4f} | {one['seconds_per_iteration']:.3f} | "
            f"{forward} | {trained} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, then draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=sorted(TOY2D), default="two-circles")
    parser.add_argument("--models", nargs="+", choices=sorted(RECIPES), default=sorted(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/figure5"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    toy = TOY2D[options.data]
    results = [
        run(name, toy, seed, options.out) for seed in options.seeds for name in options.models
    ]
    print(table(results))
    if all((options.out / f"{toy.name}-{name}-0.pt").exists() for name in RECIPES):
        draw(toy, options.out)


if __name__ == "__main__":
    main()
