"""Tables of outcomes: what is known of each series as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .errors import DataError
from .long_rows import Key, Outcomes
from .long_tables import TABLES, Columns, find_columns, read_cells
from .reading import Tally
from .text_rows import number

__all__ = ["find_outcomes", "is_outcomes", "read_outcomes"]

NAME = "outcomes"


def is_outcomes(file: Path) -> bool:
    """Whether a file is one of outcomes, by its name."""
    return file.stem.lower() == NAME or file.stem.lower().endswith(f".{NAME}")


def find_outcomes(path: Path) -> list[Path]:
    """The tables of outcomes in a folder; of a file, that of its own name or that beside it."""
    if path.is_dir():
        return sorted(f for f in path.iterdir() if f.suffix.lower() in TABLES and is_outcomes(f))
    names = [f"{stem}{suffix}" for stem in (f"{path.stem}.{NAME}", NAME) for suffix in TABLES]
    return [path.with_name(name) for name in names if path.with_name(name).exists()][:1]


def read_outcomes(paths: Sequence[Path], tally: Tally) -> Outcomes:
    """Read tables of outcomes.

    An entry that cannot be read is noted; its series then is one without an outcome.

    Args:
        paths: The tables, all with the same columns of labels and ends.
        tally: Where faults are noted.

    Raises:
        DataError: If one is missing, damaged or of another form, or has neither labels nor ends.
    """
    labels: dict[Key, int] = {}
    until: dict[Key, float] = {}
    has: set[tuple[bool, bool]] = set()
    for path in paths:
        if not path.exists() or path.suffix.lower() not in TABLES:
            raise DataError(f"{path}: no such file; expected outcomes as {' or '.join(TABLES)}")
        cells = read_cells(path)
        names = cells[0][1] if cells else []
        columns = find_columns(names, path, ())
        has.add(("label" in columns.at, "until" in columns.at))
        if (False, False) in has or len(has) > 1:
            raise DataError(
                f"{path}: expected a column `label` or `until`, and the same in every table of "
                f"outcomes; the header is {','.join(names)[:80]!r}"
            )
        for row, fields in cells[1:]:
            place = f"{path.name}, line {row}: {','.join(fields)[:60]!r}"
            fault = _add(fields, columns, labels, until)
            if fault is not None:
                tally.add(fault, place, unit="note")
    [(labelled, watched)] = has
    source = ", ".join(path.name for path in paths)
    return Outcomes(labels if labelled else None, until if watched else None, source)


def _add(
    fields: list[str], columns: Columns, labels: dict[Key, int], until: dict[Key, float]
) -> str | None:
    """Add a row; or say what is wrong with it."""
    at = columns.at
    if len(fields) != columns.count:
        return "outcome with more or fewer fields than the header"
    key = columns.key(fields)
    if not key[0]:
        return "outcome without a subject"
    if key in labels or key in until:
        return "another outcome of the same series (the first is kept)"
    try:
        label = number(fields[at["label"]]) if "label" in at else 0.0
        end = number(fields[at["until"]]) if "until" in at else 0.0
        if not (label.is_integer() and abs(label) < 2**53 and abs(end) < float("inf")):
            return "label that is no whole number, or end that is not finite"
    except ValueError:
        return "outcome that is not a number"
    if "label" in at:
        labels[key] = int(label)
    if "until" in at:
        until[key] = end
    return None
