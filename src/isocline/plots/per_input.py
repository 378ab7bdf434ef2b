"""The evaluations that each input takes, and which inputs take the least and the most."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .style import COLORS, style

__all__ = ["plot_per_input"]

_SHOWN = 8
"""How many of the easiest images, and of the hardest, are drawn."""


def plot_per_input(images: Any, labels: Any, nfe: Any, joint: float, title: str = "") -> Figure:
    """Draw the distribution of evaluations, that of each class, and the extreme images.

    Args:
        images: ``(n, channels, height, width)``, an array.
        labels: ``(n,)``, classes.
        nfe: ``(n,)``, evaluations of the field.
        joint: What a batch with common steps takes, on the mean.
        title: Title of the figure.
    """
    order = nfe.argsort(kind="stable")
    shown = min(_SHOWN, len(order))
    with style():
        figure = Figure(figsize=(10.0, 6.4), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(3, 2 * shown, height_ratios=(2.6, 1.0, 1.0))
        half = shown
        _draw_distribution(figure.add_subplot(grid[0, :half]), nfe, joint)
        _draw_classes(figure.add_subplot(grid[0, half:]), labels, nfe)
        rows = (("easiest", order[:shown]), ("hardest", order[-shown:][::-1]))
        for row, (name, members) in enumerate(rows, start=1):
            for place, member in enumerate(members):
                axes = figure.add_subplot(grid[row, 2 * place : 2 * place + 2])
                _draw_image(axes, images[member], int(nfe[member]))
                if place == 0:
                    axes.set_ylabel(name)
        figure.suptitle(title)
    return figure


def _draw_distribution(axes: Axes, nfe: Any, joint: float) -> None:
    values, counts = _counted(nfe)
    width = min((after - before for before, after in pairwise(values)), default=1)
    axes.bar(values, counts, width=0.8 * width, color=COLORS[0], label="images, each at its pace")
    axes.axvline(joint, color=COLORS[1], label="a batch that steps jointly")
    axes.set(xlabel="evaluations", ylabel="images")
    axes.legend()


def _draw_classes(axes: Axes, labels: Any, nfe: Any) -> None:
    classes = sorted(set(labels.tolist()))
    means = [float(nfe[labels == label].mean()) for label in classes]
    axes.bar([str(label) for label in classes], means, color=COLORS[2])
    lowest, highest = min(means), max(means)
    room = max(highest - lowest, 1.0)
    axes.set_ylim(lowest - room, highest + 0.3 * room)
    axes.set(xlabel="class", ylabel="mean evaluations")
    axes.grid(False, axis="x")


def _draw_image(axes: Axes, image: Any, nfe: int) -> None:
    axes.imshow(image.mean(0), cmap="gray_r", interpolation="nearest")
    axes.set(xticks=[], yticks=[], title=f"{nfe}")
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _counted(nfe: Any) -> tuple[list[int], list[int]]:
    """The numbers that occur, rising, and how often each does."""
    values = sorted(set(nfe.tolist()))
    return values, [int((nfe == value).sum()) for value in values]
