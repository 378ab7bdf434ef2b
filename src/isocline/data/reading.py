"""What came of reading a data set: how many rows, how many are used, and why not the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .errors import DataError

__all__ = ["Fault", "Reading", "Unit"]

Unit = Literal["row", "series", "note"]


@dataclass(frozen=True)
class Fault:
    """One reason for which something that was read is not used as it stood.

    Attributes:
        count: How often.
        example: The first of them: the place (file, line) and what stood there.
        unit: What is counted. ``"row"``: rows that were left out, or merged into another;
            ``"series"``: series that are missing or were left out; ``"note"``: what is worth
            knowing and cost no row.
    """

    count: int
    example: str
    unit: Unit = "row"

    def __str__(self) -> str:
        return f"{self.count:,}, first: {self.example}"


@dataclass(frozen=True)
class Reading:
    """The account of a reading. Every row is either kept or counted under a reason.

    Attributes:
        source: What was read.
        rows: Rows found.
        kept: Rows that are values of the data set.
        faults: For each reason, how often and where first.

    Raises:
        DataError: If the account does not add up.
    """

    source: str
    rows: int
    kept: int
    faults: Mapping[str, Fault] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lost = sum(fault.count for fault in self.faults.values() if fault.unit == "row")
        if self.kept < 0 or self.kept + lost != self.rows:
            raise DataError(
                f"{self.source}: of {self.rows:,} rows {self.kept:,} are kept and {lost:,} have a "
                "fault, which does not add up; this is an error of the reader: report it"
            )

    def summary(self) -> dict[str, str]:
        """Text for a table: source, rows, kept, then each reason with its count and an example."""
        head = {"source": self.source, "rows": f"{self.rows:,}", "kept": f"{self.kept:,}"}
        return head | {reason: str(fault) for reason, fault in self.faults.items()}


class Tally:
    """Gathers faults while a data set is read."""

    def __init__(self) -> None:
        self.rows = 0
        self.faults: dict[str, Fault] = {}

    def add(self, reason: str, example: str, count: int = 1, unit: Unit = "row") -> None:
        """Count `count` more under a reason; the first example stays."""
        if count:
            first = self.faults.get(reason, Fault(0, example, unit))
            self.faults[reason] = Fault(first.count + count, first.example, unit)

    def reading(self, source: str, kept: int) -> Reading:
        """The account."""
        return Reading(source, self.rows, kept, dict(self.faults))
