"""The density of a trained flow: on a grid of the plane, or at given points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...atomic import atomic_path
from ...data import check_width, read_points
from ...plots import grid_points, plot_density, save_figure
from ..errors import ConfigError
from ..report import Mean
from .config import CnfConfig, DensityConfig
from .measure import mean_of
from .pictures import density_on_grid
from .sample import write_table
from .trained import TrainedFlow, load_flow

__all__ = ["DensityResult", "measure_density"]


@dataclass(frozen=True)
class DensityResult:
    """What was measured, and where it is.

    Attributes:
        files: What was written.
        points: Number of points or pixels.
        mass: Integral of the density over the grid, near 1 if it holds all that there is; ``None``
            for points.
        log_likelihood: Mean log density of the points; ``None`` for a grid.
    """

    files: tuple[Path, ...]
    points: int
    mass: float | None = None
    log_likelihood: Mean | None = None

    def summary(self) -> dict[str, str]:
        """Names and values for people."""
        if self.log_likelihood is not None:
            return {
                "points": f"{self.points:,}",
                "mean log-likelihood": str(self.log_likelihood),
            }
        return {"pixels": f"{self.points:,}", "mass within the grid": f"{self.mass:.5f}"}


def measure_density(path: Path, options: DensityConfig) -> DensityResult:
    """Evaluate the density of the flow of the run in the folder `path`.

    Args:
        path: Folder of a run of `train_cnf`.
        options: Where to evaluate it, and where to write.

    Raises:
        ConfigError: If there is no such run, or an option is wrong.
        DataError: If the points cannot be read, or do not fit the flow.
    """
    options.check()
    trained, config = load_flow(path, options)
    if options.points is not None:
        out = path / "log_density.csv" if options.out is None else options.out
        return _at_points(trained, options.points, out)
    out = path / "density.png" if options.out is None else options.out
    return _on_grid(trained, config, options, out)


def _on_grid(
    trained: TrainedFlow, config: CnfConfig, options: DensityConfig, out: Path
) -> DensityResult:
    space = trained.space
    bounds = options.bounds or space.bounds
    if space.features != 2 or bounds is None:
        raise ConfigError(
            f"--grid is for flows of two columns, and this one has {space.features} "
            f"({', '.join(space.columns[:6])}{', ...' if space.features > 6 else ''}); "
            "give --points a file"
        )
    log_density = density_on_grid(trained, bounds, options.size).double()
    left, right, bottom, top = bounds
    mass = log_density.exp().mean() * (right - left) * (top - bottom)
    # Drawn in the flow's units: a picture has one scale, and the columns may be worlds apart.
    title = config.title + (", standardised" if space.scaling else "")
    shown = (log_density + space.log_scale).exp()
    save_figure(plot_density(shown, space.standardised_bounds(bounds), title=title), out)
    pixels = grid_points(bounds, options.size)
    numbers = out.with_suffix(".npz")
    with atomic_path(numbers) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            log_density=log_density.numpy(),
            x=pixels[0, :, 0].numpy(),
            y=pixels[:, 0, 1].numpy(),
            bounds=np.array(bounds),
        )
    return DensityResult((out, numbers), log_density.numel(), mass=float(mass))


def _at_points(trained: TrainedFlow, file: Path, out: Path) -> DensityResult:
    table = read_points(file)
    check_width(table, trained.space.features)
    log_density = trained.log_prob(table.values)
    if out.suffix.lower() == ".csv":
        values = torch.cat([table.values, log_density[:, None]], dim=1)
        write_table(out, values, [*table.columns, "log_density"])
    else:
        with atomic_path(out) as temporary, temporary.open("wb") as target:
            np.save(target, log_density.numpy())
    return DensityResult((out,), len(log_density), log_likelihood=mean_of(log_density))
