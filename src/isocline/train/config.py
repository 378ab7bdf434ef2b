"""Settings that all kinds of runs share, and how settings are filled in, checked and kept.

A kind of run adds its own: see `odenet.config`. The fields' docstrings are the help texts of the
command line. Modules of settings import nothing heavy, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args, get_type_hints

from ..solvers import BLACK_BOXES, SOLVERS, ExplicitRungeKutta
from .errors import ConfigError

__all__ = [
    "KIND",
    "AdjointName",
    "RunConfig",
    "check_at_least_one",
    "check_not_negative",
    "check_positive",
    "check_solver",
    "check_solver_by_samples",
    "flag",
]

AdjointName = Literal["checkpointed", "direct", "backsolve"]

# The name of the kind in ``config.json``, and the kind of the runs that were written without one.
KIND = "kind"
FIRST_KIND = "odenet"

# What may differ between a run and its continuation: nothing that changes the numbers.
_FREE = frozenset({"out", "resume", "threads", "progress", "checkpoint_every"})


@dataclass(frozen=True)
class RunConfig(ABC):
    """What every run has, whatever it trains: a folder, a seed, a machine, and a way to go on.

    A kind of run is a dataclass that derives from this one and from one of plain fields, in this
    order: a dataclass lists the fields of its last base first, so that help and report begin with
    what the kind is about.
    """

    kind: ClassVar[str]
    """Name of the kind, as in `isocline train KIND`; kept in ``config.json``."""
    free: ClassVar[frozenset[str]] = frozenset()
    """The kind's own settings that may differ between a run and its continuation."""

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
    """Folder of the run."""
    resume: bool = False
    """Go on from the run's last checkpoint, with the run's settings where none are given."""
    checkpoint_every: int = 100
    """Save a checkpoint every so many iterations too, not only after each epoch."""
    threads: int | None = None
    """CPU threads of each process. Default: torch's choice."""
    progress: bool = True
    """Show a progress bar."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What is trained on what, for the heading of the report."""

    @abstractmethod
    def defaults(self) -> dict[str, Any]:
        """Values of the settings that were left at ``None``, where they depend on others."""

    @abstractmethod
    def check(self) -> None:
        """Check the kind's own settings, with the defaults filled in.

        Raises:
            ConfigError: If a setting is wrong or clashes with another.
        """

    def resolved(self) -> Self:
        """Fill in the defaults that depend on other settings, and check every setting.

        Raises:
            ConfigError: If a setting is wrong or clashes with another.
        """
        self._check_choices()
        filled = {
            name: value for name, value in self.defaults().items() if getattr(self, name) is None
        }
        config = dataclasses.replace(self, **filled)
        check_at_least_one(config, "devices", "checkpoint_every", "threads")
        config.check()
        return config

    def to_dict(self) -> dict[str, Any]:
        """The kind and the settings as plain types, for JSON and for checkpoints."""
        return {KIND: self.kind} | {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Undo `to_dict`.

        Raises:
            ConfigError: If the settings are of another kind, or this version does not know them.
        """
        kind = values.get(KIND, FIRST_KIND)
        if kind != cls.kind:
            raise ConfigError(f"these are settings of the kind {kind!r}, not of {cls.kind!r}")
        values = {name: value for name, value in values.items() if name != KIND}
        fields = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - fields):
            raise ConfigError(f"unknown settings {', '.join(unknown)}; was the run made elsewhere?")
        hints = get_type_hints(cls)
        paths = {
            name: Path(value)
            for name, value in values.items()
            if value is not None and Path in get_args(hints[name])
        }
        return cls(**{**values, **paths})

    def over(self, other: Self) -> Self:
        """The settings of `other`, but for those that are not at their defaults here."""
        default = type(self)()
        changed = {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != getattr(default, field.name)
        }
        return dataclasses.replace(other, **changed)

    def differences(self, other: Self) -> dict[str, tuple[Any, Any]]:
        """Settings that change the numbers and differ, with this value and the other's."""
        mine, theirs = self.to_dict(), other.to_dict()
        return {
            name: (mine[name], theirs[name])
            for name in mine
            if name not in _FREE | self.free and mine[name] != theirs[name]
        }

    def _check_choices(self) -> None:
        # A parser does it for the command line, but settings also come from files and programs.
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            hint, value = hints[field.name], getattr(self, field.name)
            options = {option for part in (hint, *get_args(hint)) for option in _literals(part)}
            if options and value is not None and value not in options:
                names = ", ".join(sorted(map(str, options)))
                raise ConfigError(f"{flag(field.name)} {value} is unknown; choose one of {names}")


def check_at_least_one(settings: object, *names: str) -> None:
    """See to it that the settings called `names` are at least 1 where they are given.

    Raises:
        ConfigError: If one is not.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ConfigError(f"{flag(name)} is {value}, but must be at least 1")


def check_positive(settings: object, *names: str) -> None:
    """See to it that the settings called `names` are positive and finite where they are given.

    Raises:
        ConfigError: If one is not.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{flag(name)} is {value}, but must be positive and finite")


def check_not_negative(settings: object, *names: str) -> None:
    """See to it that the settings called `names` are zero or positive, and finite.

    Raises:
        ConfigError: If one is not.
    """
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value < float("inf"):
            raise ConfigError(f"{flag(name)} is {value}, but must be at least 0 and finite")


def check_solver(name: str, *, adaptive: bool, black_boxes: bool = False) -> None:
    """See to it that a solver exists and is, or is not, adaptive.

    Args:
        name: The solver's.
        adaptive: Whether it must have an error estimate, or must have none.
        black_boxes: Whether the solvers of other libraries will do too.

    Raises:
        ConfigError: If not.
    """
    fitting = sorted(key for key, method in SOLVERS.items() if method().adaptive == adaptive)
    fitting += BLACK_BOXES if black_boxes else ()
    if name in fitting:
        return
    kind = "an adaptive" if adaptive else "a fixed-step"
    known = name in SOLVERS or name in BLACK_BOXES
    fault = f"is not {kind} solver" if known else "is unknown"
    raise ConfigError(f"--solver {name} {fault}; choose one of {', '.join(fitting)}")


def check_solver_by_samples(stepping: str, name: str) -> None:
    """See to it that a solver can do what a stepping other than "joint" asks of it.

    Raises:
        ConfigError: If it has no steps by samples.
    """
    if stepping == "joint":
        return
    if name not in SOLVERS or not issubclass(SOLVERS[name], ExplicitRungeKutta):
        raise ConfigError(
            f"--stepping {stepping} goes with an explicit solver such as tsit5, not {name}"
        )


def flag(name: str) -> str:
    """The command line's option for the setting called `name`."""
    return "--" + name.replace("_", "-")


def _literals(hint: Any) -> tuple[Any, ...]:
    """Values of a `Literal` type, none for other types."""
    return get_args(hint) if getattr(hint, "__origin__", None) is Literal else ()
