"""Samples of a trained flow, to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from ...atomic import atomic_path
from ..errors import ConfigError
from ..seeding import seed_global
from .config import FILES, SampleConfig
from .trained import load_flow

__all__ = ["sample_run", "write_table"]


def sample_run(path: Path, n: int, options: SampleConfig) -> Path:
    """Draw `n` samples from the flow of the run in the folder `path`.

    Args:
        path: Folder of a run of `train_cnf`.
        n: How many.
        options: Where to write them, and how to draw.

    Returns:
        The file: a sample in each row, in the units of the data.

    Raises:
        ConfigError: If there is no such run, or an option is wrong.
    """
    if n < 1:
        raise ConfigError(f"-n is {n}, but must be at least 1")
    options.check()
    if not options.out.parent.is_dir():
        raise ConfigError(f"--out {options.out}: there is no folder {options.out.parent}")
    trained, _ = load_flow(path, options)
    seed_global(trained.device, options.seed)
    write_table(options.out, trained.sample(n), trained.space.columns)
    return options.out


def write_table(path: Path, values: Tensor, columns: Sequence[str]) -> None:
    """Write ``(n, features)`` as .npy, or as .csv with a header, whole or not at all."""
    array = values.numpy()
    with atomic_path(path) as temporary:
        if path.suffix.lower() == FILES[0]:
            # Through an open file, for numpy adds its suffix to names without it.
            with temporary.open("wb") as file:
                np.save(file, array)
        else:
            # As many digits as tell neighbouring numbers of float32 apart.
            pd.DataFrame(array, columns=list(columns)).to_csv(
                temporary, index=False, float_format="%.9g"
            )
