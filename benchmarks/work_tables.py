"""Tables of the page on work and precision."""

from __future__ import annotations

import math

import numpy as np
from peers import DETEST, Candidate, Run

__all__ = ["Measured", "claims", "curve", "promise", "ratio", "work"]

Measured = dict[tuple[str, str, float], Run | None]
"""(candidate, problem, tolerance) -> its run; None where the library gave up."""

DEFAULT = "Tsit5"
RIVALS = {
    "Tsit5": ("diffrax Tsit5", "SciPy RK45", "torchdiffeq dopri5", "diffrax Dopri5"),
    "Dopri5": ("SciPy RK45", "torchdiffeq dopri5", "diffrax Dopri5"),
    "DOP853": ("SciPy DOP853",),
    "Vern6": ("SciPy DOP853",),
    "Vern7": ("SciPy DOP853",),
    "Vern8": ("SciPy DOP853",),
    "Vern9": ("SciPy DOP853",),
    "Dopri8": ("torchdiffeq dopri8", "diffrax Dopri8"),
    "Bosh3": ("SciPy RK23", "torchdiffeq bosh3"),
    "HeunEuler": ("torchdiffeq adaptive_heun",),
    "Adams": ("SciPy LSODA",),
}
"""What is compared with what; methods that do not take part are left out."""

FLOOR = 1e-17
"""For logarithms, where an error is zero."""

MOST = 12
"""A mean over fewer problems than these says too little to be shown."""


def curve(measured: Measured, candidate: str, problem: str) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of error, ascending, and of the least evaluations that reached it."""
    runs = [
        run
        for (name, where, _), run in measured.items()
        if (name, where) == (candidate, problem) and run is not None
    ]
    runs.sort(key=lambda run: run.evaluations)
    points: list[tuple[float, float]] = []
    for run in runs:
        error = math.log10(max(run.error, FLOOR))
        if not points or error < points[-1][0]:
            points.append((error, math.log10(run.evaluations)))
    errors, evaluations = np.array(points[::-1]).reshape(-1, 2).T
    return errors, evaluations


def ratio(measured: Measured, ours: str, theirs: str, errors: np.ndarray) -> dict[str, float]:
    """Our evaluations over theirs for the same error, by problem; where they have one in common."""
    found = {}
    for problem in DETEST:
        curves = [curve(measured, name, problem) for name in (ours, theirs)]
        work = [
            np.interp(errors, *c, left=math.nan, right=math.nan) if c[0].size else errors * math.nan
            for c in curves
        ]
        gap = work[0] - work[1]
        if not np.isnan(gap).all():
            found[problem] = 10 ** float(np.nanmean(gap))
    return found


def mean(ratios: dict[str, float]) -> float:
    """Geometric mean."""
    return math.exp(np.mean(np.log(list(ratios.values()))))


def claims(measured: Measured) -> str:
    """Method against method."""
    present = {name for name, _, _ in measured}
    rows = [
        "| isocline | against | ratio | of errors below 1e-6 | best and worst problem | fewer on |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for ours, rivals in RIVALS.items():
        for theirs in rivals:
            if not {ours, theirs} <= present:
                continue
            found = ratio(measured, ours, theirs, np.linspace(-10, -3, 71))
            tight = ratio(measured, ours, theirs, np.linspace(-10, -6, 41))
            low, high = (chosen(found, key=found.__getitem__) for chosen in (min, max))
            fewer = sum(value < 1 for value in found.values())
            rows.append(
                f"| {ours} | {theirs} | **{mean(found):.3f}** "
                f"| {f'{mean(tight):.3f}' if len(tight) > MOST else ''} "
                f"| {found[low]:.2f} ({low}), {found[high]:.2f} ({high}) "
                f"| {fewer} of {len(found)} |"
            )
    return "\n".join(rows)


def work(entrants: list[Candidate], measured: Measured) -> str:
    """Evaluations relative to the default's, and the price of one."""
    levels = (-4, -6, -8)
    heads = " | ".join(f"1e{level}" for level in levels)
    rows = [f"| | {heads} | µs an evaluation |", "| --- |" + " --- |" * (len(levels) + 1)]
    for entrant in entrants:
        cells = []
        for level in levels:
            found = ratio(measured, entrant.name, DEFAULT, np.array([float(level)]))
            cells.append(f"{mean(found):.2f}" if len(found) > MOST else "")
        tol = 1e-6 if entrant.order > 2 else 1e-4
        prices = [
            1e6 * run.seconds / run.evaluations
            for problem in DETEST
            if (run := measured.get((entrant.name, problem, tol))) is not None
        ]
        rows.append(f"| {entrant.name} | {' | '.join(cells)} | {np.median(prices):.3g} |")
    return "\n".join(rows)


def promise(entrants: list[Candidate], measured: Measured) -> str:
    """How many tolerances the ends are off."""
    rows = [
        "| | median | worst | beyond 50 | worst over condition | slope |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for entrant in entrants:
        runs = {key[1:]: run for key, run in measured.items() if key[0] == entrant.name}
        off = {key: run.error / key[1] for key, run in runs.items() if run is not None}
        scaled = {key: value / DETEST[key[0]].condition for key, value in off.items()}
        beyond = sum(value > 50 for value in off.values()) / len(off)
        failed = len(runs) - len(off)
        rows.append(
            f"| {entrant.name}{f' (gave up on {failed} of {len(runs)})' if failed else ''} "
            f"| {np.median(list(off.values())):.2g} | {worst(off)} | {100 * beyond:.0f} % "
            f"| {worst(scaled)} | {np.median(slopes(off)):.2f} |"
        )
    return "\n".join(rows)


def worst(off: dict[tuple[str, float], float]) -> str:
    """The largest value and where it was met."""
    problem, tol = max(off, key=off.__getitem__)
    return f"{off[problem, tol]:.3g} ({problem}, 1e{round(math.log10(tol))})"


def slopes(off: dict[tuple[str, float], float]) -> list[float]:
    """By problem: slope of log error against log tolerance, by least squares."""
    found = []
    for problem in DETEST:
        tols = [tol for where, tol in off if where == problem]
        errors = [max(off[problem, tol] * tol, FLOOR) for tol in tols]
        if len(tols) > 1:
            found.append(float(np.polyfit(np.log(tols), np.log(errors), 1)[0]))
    return found
