"""The constant step."""

from __future__ import annotations

from dataclasses import dataclass

from .base import Decision, StepBounds

__all__ = ["Constant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant(StepBounds):
    """Every step has the length `dt0`; the last, and one before a stop, may be shorter."""

    @property
    def adaptive(self) -> bool:
        """No error estimate is used."""
        return False

    def init(self, error_order: int) -> None:
        """A constant step remembers nothing."""

    def decide(self, h: float, error_ratio: float, state: None) -> Decision:
        """Accept."""
        return Decision(True, h, None)
