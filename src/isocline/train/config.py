"""Settings of `isocline train odenet` and `isocline evaluate`.

The fields' docstrings are the help texts of the command line. This module imports nothing heavy, so
that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from ..solvers import SOLVERS
from .errors import ConfigError

__all__ = ["AdjointName", "EvaluateConfig", "OdenetConfig", "check_solver"]

AdjointName = Literal["checkpointed", "direct", "backsolve"]

# What may differ between a run and its continuation: nothing that changes the numbers.
_FREE = frozenset({"out", "resume", "threads", "progress", "checkpoint_every", "data_dir"})

_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 20, "batch_size": 64, "optimizer": "adam", "schedule": "cosine"},
    "mnist": {"epochs": 160, "batch_size": 128, "optimizer": "sgd", "schedule": "steps"},
}
_LEARNING_RATES = {"adam": 3e-3, "sgd": 0.1}


@dataclass(frozen=True)
class OdenetConfig:
    """Train an image classifier: an ODE-Net, or its rivals, the ResNet and the RK-Net."""

    data: Literal["digits", "mnist"] = "digits"
    """Data set. `digits` (8x8) comes with scikit-learn; `mnist` is read or downloaded."""
    data_dir: Path | None = None
    """Folder with the four original MNIST files; without it, MNIST is fetched from OpenML."""
    model: Literal["odenet", "resnet", "rknet"] = "odenet"
    """odenet: adaptive ODE solve; rknet: a few steps of RK4; resnet: six residual blocks."""
    adjoint: AdjointName | None = None
    """How to differentiate the solve. Default: checkpointed (odenet), direct (rknet)."""
    slots: int | None = None
    """States that the checkpointed adjoint keeps; 1 is the least memory. Default: all steps."""
    solver: str | None = None
    """Name of the solver, see `isocline solvers`. Default: tsit5 (odenet), rk4 (rknet)."""
    tol: float = 1e-3
    """Tolerance of the adaptive solver, relative and absolute."""
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
    seed: int = 0
    """Seed of the weights, the split and the order of the samples."""
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    """Arithmetic: float32, or mixed with bfloat16 or (CUDA only) float16."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to train."""
    devices: int = 1
    """Processes on this machine, one device each; under torchrun, its --nproc-per-node."""
    strategy: Literal["auto", "ddp"] = "auto"
    """ddp: data-parallel training."""
    out: Path | None = None
    """Folder of the run. Default: runs/odenet-DATA-MODEL-SEED."""
    resume: bool = False
    """Go on from the run's last checkpoint, with the run's settings where none are given."""
    checkpoint_every: int = 100
    """Save a checkpoint every so many iterations too, not only after each epoch."""
    threads: int | None = None
    """CPU threads of each process. Default: torch's choice."""
    progress: bool = True
    """Show a progress bar."""

    def resolved(self) -> OdenetConfig:
        """Fill in the defaults that depend on other settings, and check every setting.

        Raises:
            ConfigError: If a setting is wrong or clashes with another.
        """
        for field, hint in get_type_hints(OdenetConfig).items():
            options = {value for part in (hint, *get_args(hint)) for value in _literals(part)}
            value = getattr(self, field)
            if options and value is not None and value not in options:
                names = ", ".join(sorted(map(str, options)))
                raise ConfigError(f"{_flag(field)} {value} is unknown; choose one of {names}")
        chosen = dict(_DEFAULTS[self.data])
        chosen["solver"] = {"odenet": "tsit5", "rknet": "rk4", "resnet": None}[self.model]
        adjoints = {"odenet": "checkpointed", "rknet": "direct", "resnet": None}
        chosen["adjoint"] = adjoints[self.model]
        chosen["out"] = Path("runs") / f"odenet-{self.data}-{self.model}-{self.seed}"
        optimizer = self.optimizer or chosen["optimizer"]
        chosen["lr"] = _LEARNING_RATES[optimizer]
        filled = {name: value for name, value in chosen.items() if getattr(self, name) is None}
        config = dataclasses.replace(self, **filled)
        config._check()
        return config

    def _check(self) -> None:
        for name in ("epochs", "batch_size", "limit_steps", "limit_train", "rk_steps", "slots",
                     "channels", "devices", "checkpoint_every", "threads"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{_flag(name)} is {value}, but must be at least 1")
        for name in ("tol", "lr"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"{_flag(name)} is {value}, but must be positive and finite")
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
            check_solver(str(self.solver), adaptive=self.model == "odenet")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain types, for JSON and for checkpoints."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> OdenetConfig:
        """Undo `to_dict`.

        Raises:
            ConfigError: If there are settings that this version does not know.
        """
        known = {field.name for field in dataclasses.fields(OdenetConfig)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown settings {', '.join(unknown)}; was the run made elsewhere?")
        paths = {
            name: None if values.get(name) is None else Path(values[name])
            for name in ("out", "data_dir")
        }
        return OdenetConfig(**{**values, **paths})

    def over(self, other: OdenetConfig) -> OdenetConfig:
        """The settings of `other`, but for those that are not at their defaults here."""
        default = OdenetConfig()
        changed = {
            field.name: value
            for field in dataclasses.fields(OdenetConfig)
            if (value := getattr(self, field.name)) != getattr(default, field.name)
        }
        return dataclasses.replace(other, **changed)

    def differences(self, other: OdenetConfig) -> dict[str, tuple[Any, Any]]:
        """Settings that change the numbers and differ, with this value and the other's."""
        mine, theirs = self.to_dict(), other.to_dict()
        return {
            name: (mine[name], theirs[name])
            for name in mine
            if name not in _FREE and mine[name] != theirs[name]
        }


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a trained ODE-Net over a range of tolerances: the paper's Figure 3."""

    tolerances: str = "1e0..1e-5"
    """Every power of ten between two ends, such as 1e0..1e-5, or a list such as 1e-1,1e-3."""
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


def check_solver(name: str, *, adaptive: bool) -> None:
    """See to it that a solver exists and is, or is not, adaptive.

    Raises:
        ConfigError: If not.
    """
    fitting = sorted(key for key, solver in SOLVERS.items() if solver.tableau.adaptive == adaptive)
    if name in fitting:
        return
    kind = "an adaptive" if adaptive else "a fixed-step"
    fault = f"is not {kind} solver" if name in SOLVERS else "is unknown"
    raise ConfigError(f"--solver {name} {fault}; choose one of {', '.join(fitting)}")


def _literals(hint: Any) -> tuple[Any, ...]:
    """Values of a `Literal` type, none for other types."""
    return get_args(hint) if getattr(hint, "__origin__", None) is Literal else ()


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
