"""The commands. Each imports what it needs only when it runs, so that ``--help`` is quick."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional, arg
from tyro.extras import SubcommandApp

from ..compile import Cache
from ..solvers import BLACK_BOXES, SOLVERS
from ..train import (
    CnfConfig,
    DensityConfig,
    EvaluateConfig,
    LatentOdeConfig,
    NeuralCdeConfig,
    OdenetConfig,
    PredictConfig,
    SampleConfig,
)
from .tables import (
    black_box_table,
    evaluation_table,
    result_table,
    solver_table,
    source_table,
    summary_table,
)

if TYPE_CHECKING:
    from ..data import Reading

__all__ = ["run"]

_app = SubcommandApp()
_train = SubcommandApp()
_app.command(_train, name="train", help="Train a model.")
_cache = SubcommandApp()
_app.command(_cache, name="cache", help="Look at the compiled steps that are kept, or remove them.")


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
    from ..train.odenet.run import train_odenet

    result = train_odenet(config)
    if result is not None:
        _show(result_table(result), result.path)


@_train.command(name="cnf")
def train_cnf(config: OmitArgPrefixes[CnfConfig]) -> None:
    """Train a continuous normalizing flow: a density that an ODE carries from noise to data."""
    from ..train.cnf.run import train_cnf

    result = train_cnf(config)
    if result is not None:
        _show(summary_table(result.summary()), result.path)


@_train.command(name="latent-ode")
def train_latent_ode(config: OmitArgPrefixes[LatentOdeConfig]) -> None:
    """Fit a latent ODE to irregular time series, or a recurrent model to compare it with."""
    from ..train.latent_ode.run import train_latent_ode

    result = train_latent_ode(config, announce=_show_reading)
    if result is not None:
        _show(summary_table(result.summary()), result.path)


@_train.command(name="neural-cde")
def train_neural_cde(config: OmitArgPrefixes[NeuralCdeConfig]) -> None:
    """Fit a neural CDE that classifies irregular time series, or a model to compare it with."""
    from ..train.neural_cde.run import train_neural_cde

    result = train_neural_cde(config, announce=_show_reading)
    if result is not None:
        _show(summary_table(result.summary()), result.path)


@_app.command
def sample(
    run: Positional[Path],
    options: OmitArgPrefixes[SampleConfig],
    number: Annotated[int, arg(aliases=("-n",))] = 1000,
) -> None:
    """Draw samples from a trained flow, in the units of the data.

    Args:
        run: Folder of the run.
        options: Where to write them, and how to draw.
        number: How many.
    """
    from ..train.cnf.sample import sample_run

    console = Console()
    with console.status("drawing"):
        path = sample_run(run, number, options)
    console.print(f"{number:,} samples: {path}", soft_wrap=True)


@_app.command
def density(run: Positional[Path], options: OmitArgPrefixes[DensityConfig]) -> None:
    """Evaluate the density of a trained flow, on a grid of the plane or at given points.

    Args:
        run: Folder of the run.
        options: Where to evaluate it, and where to write.
    """
    from ..train.cnf.density import measure_density

    console = Console()
    with console.status("evaluating"):
        result = measure_density(run, options)
    console.print(summary_table(result.summary()))
    for path in result.files:
        console.print(f"written: {path}", soft_wrap=True)


@_app.command
def predict(run: Positional[Path], options: OmitArgPrefixes[PredictConfig]) -> None:
    """Predict series with a trained latent ODE, or classify them, in the units of the data.

    Args:
        run: Folder of the run.
        options: What to predict, and where to write it.
    """
    from ..train.predict.run import predict_run

    console = Console()
    with console.status("predicting"):
        result = predict_run(run, options, announce=_show_reading)
    console.print(summary_table(result.summary()))
    for path in result.files:
        console.print(f"written: {path}", soft_wrap=True)


@_app.command
def evaluate(run: Positional[Path], options: OmitArgPrefixes[EvaluateConfig]) -> None:
    """Measure a trained ODE-Net over tolerances (the paper's Figure 3), or image by image.

    Args:
        run: Folder of the run.
        options: What to measure.
    """
    from ..train.odenet.evaluate import evaluate_run
    from ..train.odenet.per_input import evaluate_per_input

    console = Console()
    if options.per_input:
        with console.status("solving image by image"):
            result = evaluate_per_input(run, options)
        console.print(summary_table(result.summary(), title="evaluations per image"))
        console.print(f"figure: {run / 'per_input.png'}", soft_wrap=True)
        return
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
    every = {name: method() for name, method in SOLVERS.items()}
    boxes = {name: make() for name, make in BLACK_BOXES.items()}
    Console().print(solver_table(every), source_table(every), black_box_table(boxes))


@_cache.command(name="info")
def cache_info() -> None:
    """Say where compiled steps are kept, and how much there is."""
    Console().print(summary_table(Cache().contents().summary(), title="compiled steps"))


@_cache.command(name="clear")
def cache_clear() -> None:
    """Remove all compiled steps; they are compiled again when they are needed."""
    removed = Cache().clear()
    Console().print(f"removed {removed.artifacts} artifacts from {removed.folder}", soft_wrap=True)


def _show_reading(reading: Reading) -> None:
    """What came of reading a file."""
    Console().print(summary_table(reading.summary(), title="data"))


def _show(table: Table, path: str) -> None:
    """What a training run came to, and where its report is."""
    console = Console()
    console.print(table)
    console.print(f"report: {Path(path) / 'report.md'}", soft_wrap=True)
