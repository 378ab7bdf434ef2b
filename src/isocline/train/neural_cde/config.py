"""Settings of `isocline train neural-cde`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ...solvers import SOLVERS
from ..config import AdjointName, RunConfig, check_at_least_one, check_positive, check_solver
from ..errors import ConfigError
from ..series.config import (
    FitSettings,
    SeriesSettings,
    check_fit,
    check_series,
    kind_of_data,
    series_defaults,
    subject_of,
)

__all__ = ["NeuralCdeConfig", "NeuralCdeSettings"]

# By data.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "spirals": {"iterations": 300, "batch_size": 100, "lr": 1e-2, "eval_every": 30},
    "physionet": {"iterations": 1000, "batch_size": 100, "lr": 3e-3, "eval_every": 100},
}
_OTHERS = {"iterations": 1000, "batch_size": 100, "lr": 5e-3, "eval_every": 50}


@dataclass(frozen=True)
class NeuralCdeSettings(FitSettings, SeriesSettings):
    """Data, model, solve and optimisation of a classifier of time series."""

    dropped: float = 0.0
    """Share of the observations that are dropped at random, of every series once and for all."""
    model: Literal["neural-cde", "ode-rnn", "rnn", "rnn-dt", "gru-d"] = "neural-cde"
    """neural-cde; or what it is compared with: rnn (a GRU that sees no times), rnn-dt (with the
    time between rows as an input), gru-d (whose state decays), ode-rnn (whose state follows an ODE
    between rows)."""
    path_kind: Literal["hermite", "natural-cubic", "linear"] = "hermite"
    """How the path goes through the observations: hermite and linear depend at each time on what is
    observed up to the next row; natural-cubic is smoother, and depends on all."""
    counts: bool = False
    """Running counts of the observations of each feature are channels of the path, too."""
    hidden: int = 32
    """Size of the hidden state."""
    width: int = 64
    """Width of the hidden layers of the field."""
    depth: int = 1
    """Hidden layers of the field."""
    row_steps: int = 1
    """Steps from each row to the next; 0: steps by tolerance."""
    solver: str | None = None
    """Name of a solver, see `isocline solvers`. Default: bosh3, and tsit5 for steps by
    tolerance."""
    tol: float = 1e-3
    """Tolerance of steps by tolerance, relative and absolute."""
    norm: Literal["rms", "max_rms"] = "rms"
    """What a tolerance holds for in training: the average over the batch (rms), or each series
    (max_rms), in more steps. Held-out series always take max_rms."""
    adjoint: AdjointName = "checkpointed"
    """How to differentiate the solve."""
    pictures: bool = True
    """Draw pictures at the end."""


@dataclass(frozen=True)
class NeuralCdeConfig(RunConfig, NeuralCdeSettings):
    """Fit a neural CDE that classifies irregular time series, or a model to compare it with."""

    kind: ClassVar[str] = "neural-cde"
    free: ClassVar[frozenset[str]] = frozenset({"pictures", "path", "outcomes"})

    seed: int = 0
    """Seed of the weights, the data and their split."""
    out: Path | None = None
    """Folder of the run. Default: runs/neural-cde-DATA-MODEL-SEED."""

    @property
    def title(self) -> str:
        """Model and data."""
        return f"{self.model} on {subject_of(self.data)}"

    def defaults(self) -> dict[str, Any]:
        """Defaults by data."""
        folder = f"neural-cde-{subject_of(self.data)}-{self.model}-{self.seed}"
        return {
            **_DEFAULTS.get(kind_of_data(self.data), _OTHERS),
            **series_defaults(self.data),
            # Times and values of the order of 1, as the first step of the solve expects.
            "span": 1.0,
            "solver": "bosh3" if self.row_steps else "tsit5",
            "out": Path("runs") / folder,
        }

    def check(self) -> None:
        """Check sizes and rates, and that there are classes."""
        check_series(self)
        check_fit(self)
        check_at_least_one(self, "hidden", "width", "depth")
        check_positive(self, "tol")
        if self.row_steps < 0:
            raise ConfigError(f"--row-steps is {self.row_steps}, but must be at least 0")
        if not self.row_steps:
            check_solver(str(self.solver), adaptive=True)
        elif self.solver not in SOLVERS:
            raise ConfigError(
                f"--solver {self.solver} is unknown; choose one of {', '.join(sorted(SOLVERS))}"
            )
        if not 0 <= self.dropped < 1:
            raise ConfigError(f"--dropped is {self.dropped}, but must lie in [0, 1)")
        if self.data == "events":
            raise ConfigError("--data events has no classes; use train latent-ode")
