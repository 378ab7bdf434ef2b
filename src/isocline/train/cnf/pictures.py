"""Pictures of a trained flow: what to show of it, handed to `isocline.plots` as plain numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from ...data import Bounds, Potential
from ...plots import (
    FlowFrame,
    animate_flow,
    grid_points,
    plot_density,
    plot_divergence,
    plot_likelihood,
    plot_pairs,
    plot_samples,
    plot_sequence,
    plot_trajectories,
    save_figure,
)
from ..history import Rows
from ..rundir import RunDirectory
from ..seeding import generator, seed_global
from .config import CnfConfig
from .sources import Source
from .trained import TrainedFlow

__all__ = ["density_on_grid", "draw_pictures"]

SAMPLES = 5000
# The paper's Figure 5.
MOMENTS = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
FRAMES = 41
PARTICLES = 300
# Pixels of the densities: the one on its own, each of the sequence, each of the animation.
FINE, SMALL, MOVING = 200, 120, 80
# A picture shows no error below this; the flow's own tolerance would take several times as long.
TOLERANCE = 1e-3
# Streams of random numbers.
PICTURES, TARGET = 200, 201


def draw_pictures(
    run: RunDirectory, config: CnfConfig, trained: TrainedFlow, source: Source, rows: Rows
) -> dict[str, str]:
    """Draw the pictures of a run into its folder.

    Args:
        run: The folder.
        config: The run's settings.
        trained: The flow, with the weights that are to be shown.
        source: What it was trained on.
        rows: One row of metrics for each epoch.

    Returns:
        Captions, and names of the files.
    """
    if config.objective == "density":
        pictures = {"divergence and evaluations": "kl.png"}
        save_figure(plot_divergence(rows, config.title), run.path / "kl.png")
    else:
        pictures = {"log-likelihood and evaluations": "likelihood.png"}
        truth = None
        if source.log_density is not None:
            truth = float(source.log_density(source.validation).mean())
        save_figure(plot_likelihood(rows, truth, config.title), run.path / "likelihood.png")
    seed_global(trained.device, config.seed, PICTURES)
    with trained.flow.using(rtol=TOLERANCE, atol=TOLERANCE):
        # Both coordinates of a plane are drawn to one scale, and a table's may be worlds apart.
        plane = TrainedFlow(trained.flow, trained.space.standardised())
        if plane.space.bounds is not None:
            title = config.title + (", standardised" if trained.space.scaling else "")
            pictures |= _plane(run, title, plane, source, plane.space.bounds, config.seed)
        else:
            data = trained.space.restore(torch.cat([source.validation, source.test]))
            samples = trained.sample(SAMPLES)
            figure = plot_pairs(data, samples, trained.space.columns, title=config.title)
            save_figure(figure, run.path / "pairs.png")
            pictures["held-out data and samples"] = "pairs.png"
    return pictures


def density_on_grid(
    trained: TrainedFlow, bounds: Bounds, size: int, fraction: float = 1.0
) -> Tensor:
    """Log density at the pixels of a grid, ``(size, size)``; row 0 is the lowest."""
    points = grid_points(bounds, size)
    return trained.log_prob(points.reshape(-1, 2), fraction).reshape(points.shape[:2])


def _plane(
    run: RunDirectory,
    title: str,
    trained: TrainedFlow,
    source: Source,
    bounds: Bounds,
    seed: int,
) -> dict[str, str]:
    """Pictures of a flow of two columns, in its own units."""
    data = _data(source, bounds, seed)
    base = trained.base(SAMPLES)
    fractions = [index / (FRAMES - 1) for index in range(FRAMES)]
    times = sorted({*fractions, *MOMENTS})
    path = dict(zip(times, trained.trajectory(base, times), strict=True))

    def frames(moments: tuple[float, ...] | list[float], size: int) -> list[FlowFrame]:
        return [
            FlowFrame(moment, density_on_grid(trained, bounds, size, moment).exp(), path[moment])
            for moment in moments
        ]

    density = density_on_grid(trained, bounds, FINE).exp()
    particles = torch.stack([path[time][:PARTICLES] for time in fractions])
    figures = {
        "data and samples": ("samples.png", plot_samples(data, path[1.0], bounds, title)),
        "density": ("density.png", plot_density(density, bounds, title=title)),
        "trajectories": ("trajectories.png", plot_trajectories(particles, bounds, title=title)),
        "from 5 to 100 % of the time": (
            "sequence.png",
            plot_sequence(frames(MOMENTS, SMALL), data, bounds, title),
        ),
    }
    if source.potential is not None:
        target = _density(source.potential, bounds, FINE)
        figures["target"] = ("target.png", plot_density(target, bounds, title="target"))
    for name, figure in figures.values():
        save_figure(figure, run.path / name)
    animate_flow(frames(fractions, MOVING), run.path / "flow.gif", bounds, title=title)
    return {caption: name for caption, (name, _) in figures.items()} | {"animation": "flow.gif"}


def _data(source: Source, bounds: Bounds, seed: int) -> Tensor:
    """Points of what was to be learnt, in the flow's units, at most as many as samples drawn."""
    if source.potential is None:
        return torch.cat([source.test, source.validation])[:SAMPLES]
    # Pixels by their density, and a place within each: below what a picture resolves.
    points = grid_points(bounds, FINE).reshape(-1, 2)
    left, right, bottom, top = bounds
    pixel = torch.tensor([right - left, top - bottom]) / FINE
    draws = generator(seed, TARGET)
    weights = _density(source.potential, bounds, FINE).flatten()
    chosen = torch.multinomial(weights, SAMPLES, replacement=True, generator=draws)
    return points[chosen] + pixel * (torch.rand(SAMPLES, 2, generator=draws) - 0.5)


def _density(potential: Potential, bounds: Bounds, size: int) -> Tensor:
    """The target's density on a grid, up to its constant."""
    return potential.log_density(grid_points(bounds, size)).exp()
