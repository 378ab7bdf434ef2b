"""How many evaluations each test image takes: the paper's "adapt their strategy to each input"."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...atomic import atomic_path
from ...data import ImageSet, Slices
from ...nn import ImageClassifier
from ...plots import plot_per_input, save_figure
from ..checkpoint import load_weights
from ..config import check_at_least_one, check_solver_by_samples
from ..errors import ConfigError
from ..report import markdown_table, write_evaluation
from ..rundir import RunDirectory
from .config import EvaluateConfig, OdenetConfig
from .data import load_splits
from .module import build_model

__all__ = ["PerInput", "evaluate_per_input", "measure_per_input"]


@dataclass(frozen=True)
class PerInput:
    """What each image took, at its own pace.

    Attributes:
        nfe: Evaluations in which it took part, ``(images,)``.
        steps: Accepted steps.
        predicted: Class that the network gives it.
        labels: Class that it has.
        joint: Mean evaluations of a batch that steps jointly.
    """

    nfe: Tensor
    steps: Tensor
    predicted: Tensor
    labels: Tensor
    joint: float

    def summary(self) -> dict[str, str]:
        """Names and values, for people."""
        nfe = self.nfe.double()
        wrong = self.predicted != self.labels
        shown = {
            "images": f"{len(nfe):,}",
            "evaluations, mean": f"{float(nfe.mean()):.1f}",
            "least, median, most": f"{int(nfe.min())}, {int(nfe.median())}, {int(nfe.max())}",
            "joint stepping, mean of batches": f"{self.joint:.1f}",
        }
        if bool(wrong.any()) and not bool(wrong.all()):
            shown["mean where right, where wrong"] = (
                f"{float(nfe[~wrong].mean()):.1f}, {float(nfe[wrong].mean()):.1f}"
            )
        return shown


def measure_per_input(model: ImageClassifier, data: ImageSet, batch_size: int) -> PerInput:
    """Classify all images, each at its own pace, without a graph."""
    ode = model.ode
    assert ode is not None
    found: list[tuple[Tensor, ...]] = []
    joint: list[float] = []
    own = ode.stepping
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            for images, labels in Slices(data, batch_size):
                ode.stepping = "joint"
                model(images.to(device))
                joint.append(ode.nfe_forward)
                ode.stepping = "per_sample"
                logits = model(images.to(device))
                assert ode.stats is not None
                assert ode.stats.samples is not None
                counts = ode.stats.samples
                predicted = logits.argmax(1).cpu()
                found.append((counts.nfe.cpu(), counts.steps_accepted.cpu(), predicted, labels))
    finally:
        ode.stepping = own
    nfe, steps, predicted, truth = (torch.cat(column) for column in zip(*found, strict=True))
    return PerInput(nfe, steps, predicted, truth, sum(joint) / len(joint))


def evaluate_per_input(path: Path, options: EvaluateConfig) -> PerInput:
    """Measure the run in the folder `path` image by image, and add the results to it.

    Writes ``per_input.csv`` and ``per_input.png``, and puts the figure into ``report.md``.

    Args:
        path: Folder of a run of `train_odenet`.
        options: Which weights, solver and images; tolerances and times are not measured.

    Raises:
        ConfigError: If there is no such run, it has no adaptive solve, or an option is wrong.
        DataError: If the data cannot be read.
    """
    check_at_least_one(options, "samples", "batch_size", "threads")
    run = RunDirectory(path)
    config = run.read_config(OdenetConfig)
    if config.model != "odenet":
        raise ConfigError(f"{path} is a {config.model}: its inputs all take the same evaluations")
    solver = options.solver or str(config.solver)
    check_solver_by_samples("per_sample", solver)
    model = build_model(replace(config, stepping="joint"))
    load_weights(model, run, options.checkpoint)
    assert model.eval().ode is not None
    model.ode.solver = solver  # type: ignore[union-attr]
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.data_dir is not None:
        config = replace(config, data_dir=options.data_dir)
    test = load_splits(config).test.first(options.samples)
    result = measure_per_input(model, test, options.batch_size)
    _write(run, result, test, f"{solver}, tolerance {config.tol:g}")
    return result


def _write(run: RunDirectory, result: PerInput, test: ImageSet, how: str) -> None:
    target = run.path / "per_input.csv"
    columns = [result.labels, result.predicted, result.nfe, result.steps]
    with atomic_path(target) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "predicted", "nfe", "steps"])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        writer.writerows([number, *row] for number, row in enumerate(rows))
    figure = plot_per_input(
        test.images.numpy(), result.labels.numpy(), result.nfe.numpy(), result.joint, how
    )
    save_figure(figure, run.path / "per_input.png")
    table = markdown_table(["", "per image"], result.summary().items())
    text = f"Each test image at its own pace ({how}).\n\n{table}\n\n"
    write_evaluation(run, f"{text}![Evaluations per image](per_input.png)")
