"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ..solvers import CVODE, SciPy, Solver

if TYPE_CHECKING:
    from ..train.odenet.evaluate import EvaluationPoint
    from ..train.odenet.run import OdenetResult

__all__ = [
    "black_box_table",
    "evaluation_table",
    "result_table",
    "solver_table",
    "source_table",
    "summary_table",
]


def solver_table(solvers: Mapping[str, Solver]) -> Table:
    """One row for each solver: what it costs and how well it does."""
    table = Table(title="Solvers", box=SIMPLE_HEAD, pad_edge=False)
    for head in ("name", "order", "estimate", "dense", "evals"):
        table.add_column(head, justify="left" if head == "name" else "right", no_wrap=True)
    table.caption = (
        "estimate: order in h of the error estimate of a step (- without one: constant steps); "
        "dense: order of the continuous extension; evals: field evaluations in an accepted step"
    )
    for name, solver in solvers.items():
        table.add_row(
            name,
            str(solver.order),
            str(solver.error_order) if solver.adaptive else "-",
            str(solver.dense_order),
            str(solver.evaluations_per_step),
        )
    return table


def source_table(solvers: Mapping[str, Solver]) -> Table:
    """Where each solver comes from; apart, for the texts are long."""
    table = Table(title="Sources", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("source", overflow="fold")
    for name, solver in solvers.items():
        table.add_row(name, escape(solver.reference))
    return table


def black_box_table(boxes: Mapping[str, SciPy | CVODE]) -> Table:
    """The solvers of other libraries."""
    table = Table(title="Black boxes", box=SIMPLE_HEAD, pad_edge=False)
    table.caption = escape(
        "for `train odenet` with the backsolve adjoint; they need 'isocline[external]'"
    )
    table.add_column("name", no_wrap=True)
    table.add_column("method", no_wrap=True)
    table.add_column("source", overflow="fold")
    for name, box in boxes.items():
        table.add_row(name, box.name, escape(box.reference))
    return table


def result_table(result: OdenetResult) -> Table:
    """What the training of a classifier came to."""
    rows = {
        "test error": f"{result.test_error:.2f} %",
        "validation error (best)": f"{result.validation_error:.2f} %",
        "parameters": f"{result.parameters:,}",
    }
    if result.nfe_forward:
        rows["NFE forward / backward"] = f"{result.nfe_forward:.1f} / {result.nfe_backward:.1f}"
    rows["time per epoch"] = f"{result.seconds_per_epoch:.2f} s"
    rows["epochs, iterations"] = f"{result.epochs}, {result.steps:,}"
    return summary_table(rows)


def summary_table(rows: Mapping[str, str], title: str | None = None) -> Table:
    """Names and values."""
    table = Table(show_header=False, title=title)
    for name, value in rows.items():
        table.add_row(escape(name), escape(value))
    return table


def evaluation_table(points: Sequence[EvaluationPoint]) -> Table:
    """One row for each tolerance."""
    table = Table(title="Over tolerances; times per batch in ms", box=SIMPLE_HEAD, pad_edge=False)
    for name in (
        "tolerance",
        "test error",
        "numerical error",
        "NFE forward",
        "NFE backward",
        "NFE backsolve",
        "forward",
        "training",
    ):
        table.add_column(name, justify="right")
    for point in points:
        table.add_row(
            f"{point.tolerance:.0e}",
            f"{point.test_error:.2f} %",
            f"{point.numerical_error:.1e}",
            f"{point.nfe_forward:g}",
            f"{point.nfe_backward:g}",
            f"{point.nfe_backsolve:g}",
            f"{1e3 * point.seconds_forward:.1f}",
            f"{1e3 * point.seconds_training:.1f}",
        )
    return table


def _yes(value: bool) -> str:
    return "yes" if value else "no"
