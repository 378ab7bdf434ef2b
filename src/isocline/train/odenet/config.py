"""Settings of `isocline train odenet` and `isocline evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ...solvers import BLACK_BOXES
from ..config import (
    AdjointName,
    RunConfig,
    check_at_least_one,
    check_positive,
    check_solver,
    check_solver_by_samples,
)
from ..errors import ConfigError

__all__ = [
    "EvaluateConfig",
    "OdenetConfig",
    "OdenetSettings",
    "check_adjoint",
]

_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 20, "batch_size": 64, "optimizer": "adam", "schedule": "cosine"},
    "mnist": {"epochs": 160, "batch_size": 128, "optimizer": "sgd", "schedule": "steps"},
}
_LEARNING_RATES = {"adam": 3e-3, "sgd": 0.1}


@dataclass(frozen=True)
class OdenetSettings:
    """Data, network, solve and optimisation of an image classifier."""

    data: Literal["digits", "mnist"] = "digits"
    """Data set. `digits` (8x8) comes with scikit-learn; `mnist` is read or downloaded."""
    data_dir: Path | None = None
    """Folder with the four original MNIST files; without it, MNIST is fetched from OpenML."""
    model: Literal["odenet", "resnet", "rknet"] = "odenet"
    """odenet: adaptive ODE solve; rknet: a few steps of RK4; resnet: six residual blocks."""
    adjoint: AdjointName | None = None
    """How to differentiate the solve. Default: checkpointed (odenet), direct (rknet); backsolve for
    a solver of another library, such as lsoda or cvode_adams, which takes no other."""
    slots: int | None = None
    """States that the checkpointed adjoint keeps; 1 is the least memory. Default: all steps."""
    solver: str | None = None
    """Name of the solver, see `isocline solvers`. Default: tsit5 (odenet), rk4 (rknet)."""
    tol: float = 1e-3
    """Tolerance of the adaptive solver, relative and absolute."""
    stepping: Literal["joint", "per_sample"] = "joint"
    """joint: a batch shares its steps; per_sample: each image takes as many as it needs, and with
    the adjoint backsolve as many as it needs backward, too."""
    rk_steps: int = 4
    """Steps of the rknet."""
    channels: int = 64
    """Width of the network."""
    epochs: int | None = None
    """Passes over the training data. Default: 20 on digits, 160 on MNIST."""
    limit_steps: int | None = None
    """Stop after this many iterations; the learning rate's schedule is fitted to it."""
    limit_train: int | None = None
    """Use only the first samples of the training data, for trials."""
    batch_size: int | None = None
    """Samples per iteration and process. Default: 64 on digits, 128 on MNIST."""
    optimizer: Literal["sgd", "adam"] | None = None
    """Default: adam on digits, sgd (with momentum, as in the paper's code) on MNIST."""
    lr: float | None = None
    """Learning rate. That of sgd is for a batch of 128, and is scaled with the batch over all
    processes. Default: 0.1 (sgd), 0.003 (adam)."""
    momentum: float = 0.9
    """Momentum of sgd; of adam, its first beta."""
    weight_decay: float = 0.0
    """Weight decay (L2)."""
    schedule: Literal["steps", "cosine"] | None = None
    """steps: x0.1 at 3/8, 5/8 and 7/8 of the run, as in the paper's code (MNIST's default);
    cosine: short warm-up, then half a cosine down to zero (digits' default)."""
    augment: bool = True
    """Shift training images at random, by up to 4 pixels on MNIST and 1 on digits."""


@dataclass(frozen=True)
class OdenetConfig(RunConfig, OdenetSettings):
    """Train an image classifier: an ODE-Net, or its rivals, the ResNet and the RK-Net."""

    kind: ClassVar[str] = "odenet"
    free: ClassVar[frozenset[str]] = frozenset({"data_dir"})

    out: Path | None = None
    """Folder of the run. Default: runs/odenet-DATA-MODEL-SEED."""

    @property
    def title(self) -> str:
        """Model and data."""
        return f"{self.model} on {self.data}"

    def defaults(self) -> dict[str, Any]:
        """Defaults by data set and model."""
        chosen = dict(_DEFAULTS[self.data])
        chosen["solver"] = {"odenet": "tsit5", "rknet": "rk4", "resnet": None}[self.model]
        adjoints = {"odenet": "checkpointed", "rknet": "direct", "resnet": None}
        black_box = self.solver in BLACK_BOXES
        chosen["adjoint"] = "backsolve" if black_box else adjoints[self.model]
        chosen["out"] = Path("runs") / f"odenet-{self.data}-{self.model}-{self.seed}"
        chosen["lr"] = _LEARNING_RATES[self.optimizer or chosen["optimizer"]]
        return chosen

    def check(self) -> None:
        """Check sizes, rates, and that model, solver and adjoint go together."""
        check_at_least_one(
            self, "epochs", "batch_size", "limit_steps", "limit_train", "rk_steps", "slots",
            "channels",
        )  # fmt: skip
        check_positive(self, "tol", "lr")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"--momentum is {self.momentum}, but must lie in [0, 1)")
        if self.channels > 32 and self.channels % 32:
            raise ConfigError(f"--channels is {self.channels}, but above 32 it must divide by 32")
        if self.data != "mnist" and self.data_dir is not None:
            raise ConfigError("--data-dir is for --data mnist; digits come with scikit-learn")
        if self.slots is not None and self.adjoint != "checkpointed":
            raise ConfigError("--slots is a setting of --adjoint checkpointed")
        if self.model == "resnet":
            if self.solver is not None or self.adjoint is not None:
                raise ConfigError("a resnet has no solve: leave --solver and --adjoint out")
        else:
            odenet = self.model == "odenet"
            check_solver(str(self.solver), adaptive=odenet, black_boxes=odenet)
            check_adjoint(self.solver, self.adjoint)
            check_solver_by_samples(self.stepping, str(self.solver))


def check_adjoint(solver: str | None, adjoint: str | None) -> None:
    """See to it that a solver of another library has the one adjoint that can differentiate it.

    Raises:
        ConfigError: If not.
    """
    if solver in BLACK_BOXES and adjoint != "backsolve":
        raise ConfigError(f"--solver {solver} goes with --adjoint backsolve, not {adjoint}")


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a trained ODE-Net over a range of tolerances: the paper's Figure 3."""

    tolerances: str = "1e0..1e-5"
    """Every power of ten between two ends, such as 1e0..1e-5, or a list such as 1e-1,1e-3."""
    per_input: bool = False
    """Instead of that, solve each test image at its own pace, at the run's tolerance: how many
    evaluations each takes, and which images are the easiest and the hardest."""
    checkpoint: Literal["best", "last"] = "best"
    """Which weights to use."""
    solver: str | None = None
    """Adaptive solver to measure with. Default: the run's own."""
    adjoint: AdjointName | None = None
    """Adjoint whose backward pass is measured. Default: the run's own."""
    samples: int | None = 2000
    """Test images for the error, counted from the first; the test set's size for all."""
    batch_size: int = 128
    """Images in a solve; one batch shares its steps."""
    repeats: int = 3
    """Solves behind each time; the fastest counts."""
    data_dir: Path | None = None
    """Folder with the MNIST files. Default: the run's own."""
    threads: int | None = None
    """CPU threads. Default: torch's choice."""
