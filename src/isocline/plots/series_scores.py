"""How well the classes of time series are told apart: ROC curve and confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ..errors import InputError
from .flow_panels import Array, Values, as_array, check_values
from .series_panels import check_names
from .style import COLORS, new_figure, style

__all__ = ["plot_classification"]

Classes: TypeAlias = npt.NDArray[np.int64]

# Beyond so many classes, numbers do not fit their cells.
MOST_WRITTEN = 20


def plot_classification(
    probabilities: Values, labels: Values, names: Sequence[str] = (), title: str = ""
) -> Figure:
    """Draw how well classes are told apart.

    The confusion matrix: the number of series of each class that were given each class, the most
    probable; the colour is the share of its row. Of two classes also the ROC curve, with the area
    below it, where both of them occur.

    Args:
        probabilities: (N, classes); or (N,), of class 1.
        labels: (N,), the true classes, from 0.
        names: Names of the classes; numbers if there are none.
        title: Title of the figure.

    Raises:
        InputError: If a shape is wrong, there is a single class, a probability is not in [0, 1], or
            a label is no class.
    """
    chances = _chances(probabilities)
    classes = as_array("labels", labels)
    if classes.shape != (len(chances),):
        raise InputError("labels", f"shape {classes.shape}", f"({len(chances)},)")
    count = chances.shape[1]
    if not np.isin(classes, np.arange(count)).all():
        raise InputError("labels", "a label that is no class", f"classes from 0 to {count - 1}")
    truth = classes.astype(int)
    named = list(names) or [str(label) for label in range(count)]
    check_names("names", named, count, "")
    binary = count == 2 and len(np.unique(truth)) == 2
    size = _size(count)
    with style():
        figure, panels = new_figure(1, 1 + binary, width=size + 0.9, height=size + 0.5)
        # The plain layout gives a colour bar the height of the figure rather than the matrix's.
        figure.set_layout_engine("compressed")
        if binary:
            _draw_roc(panels[0], chances[:, 1], truth)
            panels[0].set_title(f"ROC of {named[1]!r}" if names else "ROC", fontsize="medium")
        _draw_confusion(panels[-1], chances.argmax(axis=1), truth, named)
        accuracy = float((chances.argmax(axis=1) == truth).mean())
        score = f"accuracy {100 * accuracy:.1f} %"
        if binary:
            panels[-1].set_title(score, fontsize="medium")
            figure.suptitle(title)
        else:
            panels[-1].set_title(f"{title}, {score}" if title else score)
    return figure


def _chances(probabilities: Values) -> Array:
    """(N, classes), two of them at least."""
    array = as_array("probabilities", probabilities)
    if array.ndim == 1:
        array = np.stack([1 - array, array], axis=1)
    array = check_values("probabilities", array, 2)
    if array.shape[1] < 2:
        raise InputError(
            "probabilities", f"shape {array.shape}", "(N, classes), two or more, or (N,)"
        )
    # A softmax in single precision may be off by a rounding error.
    if array.min() < -1e-6 or array.max() > 1 + 1e-6:
        given = f"values from {array.min():.3g} to {array.max():.3g}"
        raise InputError("probabilities", given, "values in [0, 1]", "Take `softmax` of logits.")
    return array


def _roc(scores: Array, positive: Classes) -> tuple[Array, Array, float]:
    """False and true positive rates as the threshold falls, and the area below the curve."""
    order = np.argsort(-scores, kind="stable")
    # Equal scores pass the threshold together.
    last = np.append(np.diff(scores[order]) != 0, True)
    rates = []
    for members in (positive == 0, positive == 1):
        passed = np.cumsum(members[order])[last]
        rates.append(np.concatenate([[0.0], passed / passed[-1]]))
    return rates[0], rates[1], float(np.trapezoid(rates[1], rates[0]))


def _draw_roc(axes: Axes, scores: Array, truth: Classes) -> None:
    false, true, area = _roc(scores, truth)
    axes.plot([0, 1], [0, 1], "--", color="0.6", linewidth=1, label="chance")
    axes.plot(false, true, color=COLORS[1], label=f"model, AUC {area:.3f}", clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.legend(loc="lower right")


def _draw_confusion(axes: Axes, given: Classes, truth: Classes, names: Sequence[str]) -> None:
    count = len(names)
    counts = np.zeros((count, count), dtype=int)
    np.add.at(counts, (truth, given), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    colors = LinearSegmentedColormap.from_list("shares", ["white", COLORS[0]])
    image = axes.imshow(shares, cmap=colors, vmin=0.0, vmax=1.0, aspect="equal")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set(visible=True, color="0.7", linewidth=0.6)
    if count <= MOST_WRITTEN:
        for (row, column), number in np.ndenumerate(counts):
            axes.text(
                column,
                row,
                f"{number}\n{100 * shares[row, column]:.0f} %" if count < 5 else f"{number or ''}",
                ha="center",
                va="center",
                fontsize="medium" if count < 8 else "x-small",
                color="white" if shares[row, column] > 0.8 else "0.1",
            )
    else:
        bar = axes.figure.colorbar(image, ax=axes, label="share of the class")
        bar.ax.grid(visible=False)
    # A letter is about so many inches wide.
    slanted = 0.085 * max(map(len, names)) > _size(count) / count
    axes.set_xticks(range(count), names, rotation=45 if slanted else 0)
    if slanted:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), names)
    axes.tick_params(length=0)
    axes.set(xlabel="predicted", ylabel="true")


def _size(count: int) -> float:
    """Inches of a matrix of so many classes."""
    return float(np.clip(0.55 * count, 3.0, 8.0))
