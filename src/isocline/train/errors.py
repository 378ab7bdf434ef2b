"""Errors of training runs."""

from __future__ import annotations

from ..errors import IsoclineError

__all__ = ["ConfigError", "TrainingError"]


class ConfigError(IsoclineError, ValueError):
    """A setting is wrong, or clashes with another or with the run's folder."""


class TrainingError(IsoclineError, RuntimeError):
    """Training broke down, for instance because the loss became NaN."""
