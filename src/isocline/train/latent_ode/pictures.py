"""Pictures of a trained model of series: what to show, handed to `isocline.plots` as numbers."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...nn import LatentODE
from ...plots import (
    SeriesPanel,
    plot_classification,
    plot_intensity,
    plot_latent_space,
    plot_plane_series,
    plot_progress,
    plot_series,
    plot_series_traversal,
    plot_traversal,
    save_figure,
)
from ..history import Rows
from ..rundir import RunDirectory
from ..seeding import generator
from ..series.batches import SeriesBatch
from ..series.config import classes_of, unit_of
from ..series.parts import Source
from ..series.solves import evaluating
from .config import LatentOdeConfig
from .model import SeriesModel

__all__ = ["draw_pictures"]

# Series in a figure of the plane, and over time; times of a path; series in the latent space.
PLANE, TIME, POINTS, MEANS = 6, 3, 200, 1000
LEVEL = 0.9
SAMPLES = 100
# How far the latent state is moved, in standard deviations, and in how many directions.
OFFSETS = (-2.0, -1.0, 0.0, 1.0, 2.0)
DIRECTIONS = 4
CURVES = (("train_loss", "training"), ("validation_loss", "held out"))
# The stream of random numbers.
PICTURES = 200


def draw_pictures(
    run: RunDirectory,
    config: LatentOdeConfig,
    model: SeriesModel,
    source: Source,
    batch: SeriesBatch,
    rows: Rows,
) -> dict[str, str]:
    """Draw the pictures of a run into its folder.

    Args:
        run: The folder.
        config: The run's settings.
        model: The model on the CPU, with the weights that are to be shown.
        source: What it was fitted to.
        batch: Test series, as the model was asked of them.
        rows: One row of metrics for each epoch.

    Returns:
        Captions, and names of the files.
    """
    figures: dict[str, tuple[str, Figure]] = {
        "training": ("training.png", plot_progress(rows, CURVES, "loss", title=config.title))
    }
    with evaluating(model):
        if source.space.width:
            figures |= _series(config, model, source, batch)
        if model.events is not None and not source.space.width:
            figures["intensities and events"] = (
                "intensity.png", _intensity(config, model, source, batch),
            )  # fmt: skip
        if isinstance(model.core, LatentODE):
            means = model.summary(batch.observed[:MEANS])
            labels = None if batch.labels is None else batch.labels[:MEANS]
            figures["latent space"] = (
                "latent.png",
                plot_latent_space(means, labels, classes_of(config.data), config.title),
            )  # fmt: skip
            if source.space.width:
                figures["latent traversal"] = (
                    "traversal.png", _traversal(config, model.core, source, means),
                )  # fmt: skip
        logits = model.logits(batch.observed)
        if logits is not None and batch.labels is not None:
            figure = plot_classification(
                logits.softmax(-1), batch.labels, classes_of(config.data), config.title
            )
            figures["classes"] = ("classes.png", figure)
    for name, figure in figures.values():
        save_figure(figure, run.path / name)
    return {caption: name for caption, (name, _) in figures.items()}


def _series(
    config: LatentOdeConfig, model: SeriesModel, source: Source, batch: SeriesBatch
) -> dict[str, tuple[str, Figure]]:
    """Reconstruction and extrapolation of the first test series."""
    truth = source.test.truth
    plane = truth is not None and source.space.width == 2
    scaling = source.space.scaling
    split = None if truth is None else truth.split * scaling.time_scale
    times = torch.linspace(0, source.space.until, POINTS) if truth is None else truth.times
    panels = _panels(model, source, batch, times, PLANE if plane else TIME)
    if plane:
        return {
            "reconstruction and extrapolation": (
                "series.png", plot_plane_series(panels, split, config.title),
            )
        }  # fmt: skip
    figure = plot_series(
        panels,
        source.space.features,
        split,
        band=f"{100 * LEVEL:.0f} % interval",
        xlabel=unit_of(config.data),
        title=config.title,
    )
    return {"series and predictions": ("series.png", figure)}


def _panels(
    model: SeriesModel, source: Source, batch: SeriesBatch, times: Tensor, count: int
) -> list[SeriesPanel]:
    """The first series in the units of the data."""
    few = batch.parts(count)[0]
    draws = generator(PICTURES)
    single = model.predict(few.observed, times).mean
    spread = model.predict(few.observed, times, SAMPLES, draws)
    lower, upper = spread.interval(LEVEL)
    scaling, truth = source.space.scaling, source.test.truth
    panels = []
    for index in range(len(few.observed)):
        read, held = few.observed[index : index + 1], None
        if few.held is not None:
            held = few.asked.values[index].where(few.held[index], torch.nan)
        clean = None if truth is None else scaling.restore(truth.values[index])
        panels.append(
            SeriesPanel(
                scaling.restore_times(read.times[0]),
                scaling.restore(read.values[0].where(read.mask[0], torch.nan)),
                scaling.restore_times(times),
                scaling.restore(single[index]),
                scaling.restore(lower[index]),
                scaling.restore(upper[index]),
                clean,
                None if held is None else scaling.restore_times(few.asked.times[index]),
                None if held is None else scaling.restore(held),
                source.test.series.subjects[index],
            )
        )
    return panels


def _intensity(
    config: LatentOdeConfig, model: SeriesModel, source: Source, batch: SeriesBatch
) -> Figure:
    """Rates and events of the first test series."""
    core, part, scaling = model.core, source.test, source.space.scaling
    assert isinstance(core, LatentODE)
    few = batch.observed[:PLANE]
    times = torch.linspace(0, source.space.until, POINTS)
    # Per unit of the data's time, which is `time_scale` units of the model's.
    rates = core.intensity(few, times).squeeze(-1) / scaling.time_scale
    events = [scaling.restore_times(part.series.times[index]) for index in range(len(few))]
    known = None
    if part.intensities:
        own_times = scaling.restore_times(times)
        known = torch.stack([own.rate(own_times) for own in part.intensities[: len(few)]])
    moments = scaling.restore_times(times)
    return plot_intensity(
        moments, rates, events, known, xlabel=unit_of(config.data), title=config.title
    )


def _traversal(config: LatentOdeConfig, core: LatentODE, source: Source, means: Tensor) -> Figure:
    """What is decoded as the latent state moves along its principal components."""
    centre = means.mean(0)
    number = min(DIRECTIONS, means.shape[1], len(means))
    _, deviations, components = torch.linalg.svd(means - centre, full_matrices=False)
    deviations = deviations[:number] / max(len(means) - 1, 1) ** 0.5
    moves = torch.tensor(OFFSETS)[:, None] * deviations[:, None, None] * components[:number, None]
    end = source.space.until
    truth = source.test.truth
    times = torch.linspace(0, end if truth is None else float(truth.times[-1]), POINTS)
    assert core.decoder is not None
    assert core.likelihood is not None
    z0 = (centre + moves).flatten(0, 1).unsqueeze(1)
    z = core.paths(z0, times.expand(len(z0), -1)).z.squeeze(2)
    decoded = core.likelihood.distribution(core.decoder(z)).mean
    paths = source.space.scaling.restore(decoded).unflatten(0, (number, len(OFFSETS)))
    names = [f"component {index + 1}" for index in range(number)]
    if truth is not None and source.space.width == 2:
        return plot_traversal(paths, OFFSETS, names, config.title)
    feature = int(source.test.series.observed.argmax())
    moments = source.space.scaling.restore_times(times)
    label = source.space.features[feature]
    return plot_series_traversal(
        paths[..., feature],
        moments,
        OFFSETS,
        names,
        label,
        xlabel=unit_of(config.data),
        title=config.title,
    )
