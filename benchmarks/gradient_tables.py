"""Tables of the page on the time of gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from gradient_fields import Case
from gradient_page import versions
from timing import Timing

__all__ = ["DEFAULT", "PLAIN", "Held", "Measured", "head", "memory_table", "report"]

DEFAULT = "isocline, as it comes"
PLAIN = "torchdiffeq odeint"


@dataclass(frozen=True)
class Measured:
    """One candidate at one tolerance."""

    timing: Timing
    evaluations: int
    error: float
    gradient_error: float


def faster(
    measured: dict[tuple[str, float], Measured], name: str, error: Callable[[Measured], float]
) -> list[float]:
    """How many times faster than `odeint` a candidate is where both err by the same.

    For each of its tolerances at which the error lies between two of odeint's, whose time is
    interpolated there, in logarithms.
    """
    plain = [one for (who, _), one in measured.items() if who == PLAIN]
    points = sorted((np.log(error(one)), np.log(one.timing.median)) for one in plain)
    errors, times = np.array(points).T
    return [
        float(np.exp(np.interp(np.log(error(one)), errors, times)) / one.timing.median)
        for (who, _), one in measured.items()
        if who == name and errors[0] <= np.log(error(one)) <= errors[-1]
    ]


def report(case: Case, measured: dict[tuple[str, float], Measured], rounds: int) -> str:
    """One field as Markdown: a row for each candidate, its numbers in the order of tolerances."""
    tolerances = " / ".join(f"{tol:g}" for tol in case.tolerances)
    how = f"t from 0 to {case.end:g}, {rounds} rounds, rtol {tolerances}."
    lines = [f"### {case.name[0].upper()}{case.name[1:]}", "", how, ""]
    head = [
        "", "ms, median", "faster than `odeint` at the same rtol", "at the same error of the end",
        "of the gradient", "evaluations", "end off by", "gradient off by",
    ]  # fmt: skip
    lines += [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for name in dict.fromkeys(name for name, _ in measured):
        mine = {tol: one for (who, tol), one in measured.items() if who == name}
        ratios = {tol: one.timing.ratio(measured[PLAIN, tol].timing) for tol, one in mine.items()}
        cells = [
            " / ".join(f"{one.timing.median:.3g}" for one in mine.values()),
            " / ".join(f"{ratio:.2f}" for ratio in ratios.values()),
            least_and_mean(faster(measured, name, lambda one: one.error)),
            least_and_mean(faster(measured, name, lambda one: one.gradient_error)),
            " / ".join(str(one.evaluations) for one in mine.values() if one.evaluations),
            " / ".join(f"{one.error:.0e}" for one in mine.values()),
            " / ".join(f"{one.gradient_error:.0e}" for one in mine.values()),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def least_and_mean(ratios: list[float]) -> str:
    if not ratios:
        return ""
    return f"{min(ratios):.2f} ({np.exp(np.mean(np.log(ratios))):.2f})"


class Held(NamedTuple):
    """What one candidate holds at one tolerance."""

    tolerance: float
    evaluations: int
    bytes: int


def memory_table(found: dict[str, list[Held]]) -> str:
    """Peak bytes on the convolutional field, by candidate."""
    lines = ["### Memory on the convolutional field", ""]
    tolerances = [f"rtol {one.tolerance:g}" for one in found[PLAIN]]
    head = ["peak, MiB", *tolerances, "less than `odeint`, times", "evaluations"]
    lines += [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for name, rows in found.items():
        cells = [f"{row.bytes / 2**20:.0f}" for row in rows]
        pairs = zip(rows, found[PLAIN], strict=True)
        cells.append(" / ".join(f"{plain.bytes / row.bytes:.1f}" for row, plain in pairs))
        cells.append(" / ".join(str(row.evaluations) for row in rows))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", OF_MEMORY])


OF_MEMORY = """\
Every exact adjoint holds the graph of one step at least: six evaluations of this field are 14
to 20 MiB. The default keeps 64 MiB of graphs beside it, which is what makes it as fast as
`odeint` here. So a solve needs some ten times as many steps as fit into that before it holds a
tenth of what `odeint` does. With `slots=8` it takes 25 steps (rtol 1e-05), in the time of
`odeint`. At the seven steps of rtol 0.001 no choice is both as fast and so small: to hold less
than a step's graph, each evaluation would have to be made once more."""

HEAD = """## Time beside torchdiffeq and diffrax

Solve, loss and gradient of weights and initial state, float32, one thread. All candidates run in
turn, in every round at every tolerance (atol is a tenth of rtol). isocline and torchdiffeq use
dopri5 with the averaged norm here, and diffrax its Dopri5 with the same norm, compiled; "as it
comes" is `isocline.solve` with its defaults: tsit5, and a tolerance that holds for each sample.
Evaluations are forward and backward together. Errors are relative, against a solve in float64 at a
tight tolerance. At the same error: the time of `odeint` is interpolated between its tolerances; the
least ratio of a candidate's tolerances, and in brackets their mean. Times of one machine at one
time: read the ratios, which still move by a tenth or more where other programs run.
"""


def head() -> str:
    """How to read the tables that follow."""
    return HEAD + f"@versions, {versions('torchdiffeq', 'diffrax', 'jax')}."
