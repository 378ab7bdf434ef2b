"""The commands. Each imports what it needs only when it runs, so that ``--help`` is quick."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional
from tyro.extras import SubcommandApp

from ..solvers import SOLVERS
from ..train import EvaluateConfig, OdenetConfig
from .tables import evaluation_table, result_table, solver_table, source_table

__all__ = ["run"]

_app = SubcommandApp()
_train = SubcommandApp()
_app.command(_train, name="train", help="Train a model.")


def run(arguments: Sequence[str]) -> None:
    """Parse the arguments and run the command that they name."""
    _app.cli(
        prog="isocline",
        description="Differentiable solving of ordinary differential equations for PyTorch.",
        args=list(arguments),
    )


@_train.command(name="odenet")
def train_odenet(config: OmitArgPrefixes[OdenetConfig]) -> None:
    """Train an image classifier: an ODE-Net, or its rivals, the ResNet and the RK-Net."""
    from ..train.run import train_odenet

    result = train_odenet(config)
    if result is not None:
        console = Console()
        console.print(result_table(result))
        console.print(f"report: {Path(result.path) / 'report.md'}", soft_wrap=True)


@_app.command
def evaluate(run: Positional[Path], options: OmitArgPrefixes[EvaluateConfig]) -> None:
    """Measure a trained ODE-Net over a range of tolerances: the paper's Figure 3.

    Args:
        run: Folder of the run.
        options: What to measure.
    """
    from ..train.evaluate import evaluate_run

    console = Console()
    with console.status("solving for reference") as status:
        points = evaluate_run(
            run,
            options,
            lambda point: status.update(f"tolerance {point.tolerance:.0e} done"),
        )
    console.print(evaluation_table(points))
    console.print(f"figure: {run / 'figure3.png'}", soft_wrap=True)


@_app.command
def solvers() -> None:
    """List the solvers."""
    tableaus = [solver.tableau for solver in SOLVERS.values()]
    Console().print(solver_table(tableaus), source_table(tableaus))
