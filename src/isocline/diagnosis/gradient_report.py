"""What was found about a solve's gradient, in numbers and in words."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..adjoints import Adjoint
from .sizes import in_bytes

__all__ = ["GradientReport", "GradientRow"]

_SHOWN = 12
"""Inputs that the table names; the others are counted."""

_WIDTH = 100


@dataclass(frozen=True, slots=True)
class GradientRow:
    """One adjoint: how far its gradient is off, and what it costs.

    Relative errors are ||g - g*|| / ||g*||.

    Attributes:
        name: the adjoint, by its settings that are not the defaults.
        adjoint: itself.
        error: against the exact gradient of the discrete solve, of all inputs as one vector; None
            where there is none to compare with, as in all that follows.
        errors: the same by input.
        true_error: against the gradient at a tight tolerance.
        true_errors: the same by input.
        seconds: median of the runs: forward, loss and backward.
        evaluations: of the field, forward and backward.
        memory: most bytes of tensors alive at once, beyond those before.
        steps: accepted.
        failure: why there is no gradient; empty where there is.
        warnings: that were given on the way.
    """

    name: str
    adjoint: Adjoint
    error: float | None = None
    errors: dict[str, float] = field(default_factory=dict)
    true_error: float | None = None
    true_errors: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    evaluations: tuple[int, int] = (0, 0)
    memory: int | None = None
    steps: int = 0
    failure: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GradientReport:
    """The gradient of a solve by one or more adjoints. `print` it, or read its attributes.

    Attributes:
        solver: name of the method.
        dtype: of the state.
        steps: accepted steps of the solve.
        exact_by: which adjoint found the exact gradient of the discrete solve; "" for a black box.
        reference: how the gradient at a tight tolerance was found.
        resolution: how much that reference still moves, relatively, when its tolerance is made
            ten times smaller: errors below it cannot be told.
        own_error: relative error of the discrete solve's exact gradient against the reference: what
            the solver's tolerance leaves, whatever the adjoint. None where one is not to be had.
        own_errors: the same by input.
        tolerance: `rtol` of the solve, the least of them.
        rows: one for each adjoint.
    """

    solver: str
    dtype: torch.dtype
    steps: int
    exact_by: str
    reference: str
    resolution: float
    own_error: float | None
    own_errors: dict[str, float]
    tolerance: float
    rows: tuple[GradientRow, ...]

    @property
    def rounding(self) -> float:
        """An error that tells nothing, for sums in another order have it too."""
        return 100 * torch.finfo(self.dtype).eps

    @property
    def yardstick(self) -> float:
        """An error that an adjoint may well add: the solve's own, or that of rounding.

        Where the solve's own is not known, it is the tolerance.
        """
        return max(self.rounding, self.tolerance if self.own_error is None else self.own_error)

    @property
    def best(self) -> GradientRow | None:
        """The fastest adjoint whose gradient is off by less than the solve's own error."""
        good = [row for row in self.rows if self.added(row) <= self.yardstick]
        return min(good, key=lambda row: row.seconds or 0.0, default=None)

    def added(self, row: GradientRow) -> float:
        """The error that an adjoint adds; infinite where it failed."""
        if row.failure:
            return float("inf")
        # A black box has no discrete gradient: what is known is the error against the ODE's.
        found = row.error if row.error is not None else row.true_error
        return float("inf") if found is None else found

    @property
    def advice(self) -> str:
        """One sentence that follows from the numbers."""
        return _advice(self)

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        head = f"gradient of a solve by {self.solver}: {self.steps} steps, {kind}"
        parts = [[head, ""], _by_adjoint(self), [""], _by_input(self)]
        parts += [_notes(self), _wrapped("advice: ", self.advice)]
        return "\n".join(line for part in parts for line in part)


def _by_adjoint(report: GradientReport) -> list[str]:
    """A row for each adjoint."""
    head = ["", "off the solve's", "off the ODE's", "ms", "evaluations", "memory", "steps"]
    rows = [
        [
            row.name,
            *(
                ["failed", "", "", "", "", ""]
                if row.failure
                else [
                    _number(row.error),
                    _number(row.true_error, report.resolution),
                    "" if row.seconds is None else f"{1e3 * row.seconds:.3g}",
                    "{} + {}".format(*row.evaluations),
                    "-" if row.memory is None else in_bytes(row.memory),
                    str(row.steps),
                ]
            ),
        ]
        for row in report.rows
    ]
    return _aligned([head, *rows])


def _by_input(report: GradientReport) -> list[str]:
    """Errors against the reference by input: of the exact gradient, and of others than that."""
    columns = {"exact": report.own_errors} if report.own_errors else {}
    for row in report.rows:
        exact = row.error is not None and row.error <= report.rounding
        if row.true_errors and not exact:
            columns[row.name] = row.true_errors
    target = "ODE"
    if not columns:  # no reference
        target = "solve"
        columns = {row.name: row.errors for row in report.rows if row.errors}
    if not columns:
        return []
    floor = report.resolution if target == "ODE" else 0.0
    by_input = {name: [column[name] for column in columns.values()] for name in _first(columns)}
    shown = sorted(by_input, key=lambda name: -max(by_input[name]))[:_SHOWN]
    table = [[f"off the {target}'s, by input", *columns]]
    table += [
        [name, *(_number(value, floor) for value in values)]
        for name, values in by_input.items()
        if name in shown
    ]
    if len(by_input) > len(shown):
        table.append([f"({len(by_input) - len(shown)} more, less off)"])
    return [*_aligned(table), ""]


def _first(columns: dict[str, dict[str, float]]) -> dict[str, float]:
    return next(iter(columns.values()))


def _notes(report: GradientReport) -> list[str]:
    """How what is compared with was found; failures and warnings."""
    lines: list[str] = []
    if report.exact_by:
        own = ""
        if report.own_error is not None:
            number = _number(report.own_error, report.resolution)
            own = f"; off the ODE's by {number}, the solve's own error"
        lines += _wrapped("the solve's: ", f"exact for its steps, by {report.exact_by}{own}.")
    else:
        lines += _wrapped("the solve's: ", "none, for a black box shows no steps.")
    sure = f"; good to {report.resolution:.0e}" if report.resolution else ""
    lines += _wrapped("the ODE's: ", f"{report.reference}{sure}.")
    said: dict[str, list[str]] = {}
    for row in report.rows:
        for text in filter(None, (row.failure, *row.warnings)):
            said.setdefault(text, []).append(row.name)
    for text, names in said.items():
        lines += _wrapped(f"{', '.join(names)}: ", text)
    return lines


def _advice(report: GradientReport) -> str:
    best, bar = report.best, f"{report.yardstick:.0e}"
    if report.own_error is None and report.tolerance > report.rounding:
        whose = f"the tolerance ({bar})"
    elif report.own_error is None or report.own_error < report.rounding:
        whose = f"what rounding leaves ({bar})"
    else:
        whose = f"the solve's own error ({bar})"
    if best is None:
        if all(row.failure for row in report.rows):
            return "none of these adjoints can differentiate this solve."
        least = min(report.rows, key=report.added)
        off = f"{least.name} is off by {report.added(least):.0e}, more than {whose}"
        return f"{off}: {_remedy(report)}."
    known = best.error is not None
    within = f"adds {_number(report.added(best))} to" if known else "is within"
    if len(report.rows) == 1:
        text = f"keep {best.name}: it {within} {whose}"
    else:
        rank = f"the fastest that {'adds no more than' if known else 'is within'}"
        text = f"take {best.name}, {rank} {whose}{_leaner(report, best)}"
    return text + _worse(report) + "."


def _leaner(report: GradientReport, best: GradientRow) -> str:
    """A mention of the adjoint that needs far less memory."""
    good = [
        row
        for row in report.rows
        if report.added(row) <= report.yardstick and row.memory is not None
    ]
    if not good or not best.memory or not best.seconds:
        return ""
    lean = min(good, key=lambda row: row.memory or 0)
    if lean.memory is None or lean.memory > best.memory / 2:
        return ""
    times = (lean.seconds or 0.0) / best.seconds
    return (
        f"; {lean.name} needs {in_bytes(lean.memory)} instead of {in_bytes(best.memory)}, "
        f"at {times:.1f} times the time"
    )


def _worse(report: GradientReport) -> str:
    off = [row for row in report.rows if report.yardstick < report.added(row) < float("inf")]
    if not off:
        return ""
    worst = max(off, key=report.added)
    factor = report.added(worst) / report.yardstick
    return f"; {worst.name} is off by {report.added(worst):.0e}, {factor:.0f} times that"


def _remedy(report: GradientReport) -> str:
    if not report.exact_by:
        return "tighten its tolerances, or solve with a method of isocline's"
    return "take an exact adjoint, such as Checkpointed(), or tighten its tolerances"


def _number(value: float | None, floor: float = 0.0) -> str:
    """A relative error in few characters; below `floor` it is not known better."""
    if value is None:
        return "-"
    if value < floor:
        return f"< {floor:.0e}"
    return "0" if value == 0 else f"{value:.0e}"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side, the first to the left and the others to the right."""
    widths = [
        max(len(row[place]) for row in table if place < len(row))
        for place in range(max(map(len, table)))
    ]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in table
    ]


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(head + text, _WIDTH, subsequent_indent="  ", break_long_words=False)
