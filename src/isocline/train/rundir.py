"""The folder of a run: what lies where, and whether it may be used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .config import FIRST_KIND, KIND, RunConfig
from .errors import ConfigError
from .files import write_json

__all__ = ["RunDirectory"]

C = TypeVar("C", bound=RunConfig)


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run's files."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The settings."""
        return self.path / "config.json"

    @property
    def metrics_file(self) -> Path:
        """One row for each epoch."""
        return self.path / "metrics.csv"

    @property
    def report_file(self) -> Path:
        """The report, in Markdown."""
        return self.path / "report.md"

    @property
    def result_file(self) -> Path:
        """The results, for programs."""
        return self.path / "result.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of `last.ckpt` and `best.ckpt`."""
        return self.path / "checkpoints"

    def checkpoint(self, name: str) -> Path:
        """Path of the checkpoint called `best` or `last`."""
        return self.checkpoints / f"{name}.ckpt"

    @staticmethod
    def settle(config: C) -> C:
        """Fill in what `config` leaves open: by the old run's settings with ``--resume``.

        Raises:
            ConfigError: If a setting is wrong, or there is no run to resume.
        """
        resolved = config.resolved()
        if not config.resume:
            return resolved
        assert resolved.out is not None
        return config.over(RunDirectory(resolved.out).read_config(type(config))).resolved()

    @staticmethod
    def prepare(config: RunConfig) -> RunDirectory:
        """Make the folder of a new run, or take up that of an old one with ``--resume``.

        Raises:
            ConfigError: If the folder is in use, is no run, or holds a run of other settings.
        """
        assert config.out is not None
        run = RunDirectory(config.out)
        if config.resume:
            differing = config.differences(run.read_config(type(config)))
            if differing:
                listed = "; ".join(
                    f"{name}: {was!r} in the run, {now!r} now"
                    for name, (now, was) in differing.items()
                )
                raise ConfigError(
                    f"{run.path} holds a run of other settings ({listed}); resume it with its own, "
                    "or start a new run with another --out"
                )
            return run
        if run.path.exists() and not run.path.is_dir():
            raise ConfigError(f"{run.path} is a file; give --out a folder")
        if run.config_file.exists():
            raise ConfigError(
                f"{run.path} holds a run already; continue it with --resume, or start a new one "
                "with another --out"
            )
        if run.path.exists() and any(run.path.iterdir()):
            raise ConfigError(
                f"{run.path} is not empty, and is no run; give --out a new or an empty folder"
            )
        write_json(run.config_file, config.to_dict())
        return run

    def read_config(self, expected: type[C]) -> C:
        """Read the settings of the run.

        Args:
            expected: The class of settings that runs of the expected kind have.

        Raises:
            ConfigError: If there is no run here, it is of another kind, or its settings cannot be
                read.
        """
        values = self._read_values()
        kind = values.get(KIND, FIRST_KIND)
        if kind != expected.kind:
            raise ConfigError(
                f"{self.path} is a run of the kind {kind}, not {expected.kind}; give one that "
                f"`isocline train {expected.kind}` wrote"
            )
        return expected.from_dict(values)

    def read_kind(self) -> str:
        """The kind of the run.

        Raises:
            ConfigError: If there is no run here, or its settings cannot be read.
        """
        return str(self._read_values().get(KIND, FIRST_KIND))

    def _read_values(self) -> dict[str, Any]:
        try:
            values: Any = json.loads(self.config_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError(
                f"{self.path} holds no run (there is no config.json in it); give the folder that "
                "`isocline train` wrote"
            ) from error
        except ValueError as error:
            raise ConfigError(f"{self.config_file} is damaged ({error})") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{self.config_file} is damaged (no settings in it)")
        return values
