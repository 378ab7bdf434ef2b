"""Figures of the page on work and precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from peers import DETEST, Candidate, Run
from PIL import Image
from work_tables import FLOOR, Measured

from isocline.plots.style import COLORS, new_figure, save_figure, style

__all__ = ["by_problem", "families"]

FAMILIES = {"low": range(4), "middle": range(4, 7), "high": range(7, 99)}
"""Figures by the order of the error estimate."""

PALETTE = (*COLORS, "#8C6D31", "#7B3294", "#1B7837", "#444444")
MARKS = {"isocline": "o", "torchdiffeq": "s", "SciPy": "^", "diffrax": "D"}
HUES = {"torchdiffeq": "#B2182B", "SciPy": "#777777", "diffrax": "#111111"}
DASHES = ("--", ":", "-.")
SIDES: dict[str, Callable[[Run], float]] = {
    "evaluations of the field": lambda run: run.evaluations,
    "milliseconds": lambda run: 1e3 * run.seconds,
}
COMPARED = {
    "Tsit5": ("isocline Tsit5", COLORS[0], "-", "o"),
    "diffrax Tsit5": ("diffrax Tsit5", "#111111", "--", "D"),
    "SciPy RK45": ("SciPy RK45", COLORS[1], "--", "^"),
    "torchdiffeq dopri5": ("torchdiffeq dopri5", COLORS[2], "--", "s"),
}


def logarithmic(ax: Axes) -> None:
    """Both axes; 1, 2 and 5 are named on a horizontal one that spans little."""
    ax.set(xscale="log", yscale="log")
    left, right = ax.get_xlim()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if right < 200 * left else (1,)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: Path, dpi: int) -> None:
    """In 256 colours: half the size, and no difference to the eye."""
    save_figure(figure, path, dpi=dpi)
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE)
    small.save(path, optimize=True)


def geometric(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(np.maximum(values, FLOOR)))))


def points(
    measured: Measured, candidate: str, cost: Callable[[Run], float]
) -> tuple[list[float], list[float]]:
    """Geometric means of cost and error over the problems, a point for each tolerance."""
    costs, errors = [], []
    for tol in sorted({tol for name, _, tol in measured if name == candidate}, reverse=True):
        runs = [measured[candidate, problem, tol] for problem in DETEST]
        if None not in runs:  # where one fails, the mean of the others says another thing
            costs.append(geometric([cost(run) for run in runs if run is not None]))
            errors.append(geometric([run.error for run in runs if run is not None]))
    return costs, errors


def families(entrants: list[Candidate], measured: Measured, page: Path) -> None:
    """Error against evaluations and against time, a figure for low, middle and high orders."""
    for family, orders in FAMILIES.items():
        members = [entrant for entrant in entrants if entrant.order in orders]
        with style():
            figure, axes = new_figure(1, 2, width=5.4, height=4.4)
            for ax, (label, cost) in zip(axes, SIDES.items(), strict=True):
                draw(ax, members, measured, cost)
                logarithmic(ax)
                ax.set_xlabel(label)
            axes[0].set_ylabel("error")
            axes[1].sharey(axes[0])
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside right center", fontsize=9)
        save(figure, page.with_name(f"{page.stem}-{family}.png"), dpi=110)


def draw(
    ax: Axes, members: list[Candidate], measured: Measured, cost: Callable[[Run], float]
) -> None:
    """One curve for each method: ours solid and coloured, those of others dashed."""
    seen: dict[str, int] = {}
    for entrant in members:
        count = seen[entrant.library] = seen.get(entrant.library, -1) + 1
        ours = entrant.library == "isocline"
        ax.plot(
            *points(measured, entrant.name, cost),
            color=PALETTE[count % len(PALETTE)] if ours else HUES[entrant.library],
            linestyle="-" if ours else DASHES[count % len(DASHES)],
            marker=MARKS[entrant.library],
            markersize=4,
            linewidth=1.5 if ours else 1.2,
            label=entrant.name,
        )


def by_problem(measured: Measured, page: Path) -> None:
    """Error against evaluations for each problem: the default beside its nearest rivals."""
    with style():
        figure, axes = new_figure(5, 5, width=2.3, height=1.9)
        for ax, problem in zip(axes, DETEST, strict=True):
            for candidate, (label, color, dash, mark) in COMPARED.items():
                runs = [
                    run
                    for (name, where, _), run in measured.items()
                    if (name, where) == (candidate, problem) and run is not None
                ]
                ax.plot(
                    [run.evaluations for run in runs],
                    [max(run.error, FLOOR) for run in runs],
                    dash, color=color, marker=mark, markersize=2.5, linewidth=1.1, label=label,
                )  # fmt: skip
            logarithmic(ax)
            ax.set_title(problem, loc="left", fontsize=9)
            ax.tick_params(labelsize=7)
        figure.supxlabel("evaluations of the field", fontsize=10)
        figure.supylabel("error", fontsize=10)
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=9
        )
    save(figure, page.with_name(f"{page.stem}-problems.png"), dpi=100)
