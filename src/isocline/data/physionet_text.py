"""The challenge's own files: one text file for each stay, and one of outcomes."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .errors import DataError
from .long_rows import Key, LongRows, Outcomes
from .reading import Tally
from .text_rows import clock, number, shown, text_lines

__all__ = ["read_stays"]

HEADER = ["Time", "Parameter", "Value"]
# All times of the 48 hours: to look one up is quicker than to parse it.
MINUTES = {f"{minute // 60:02d}:{minute % 60:02d}": minute for minute in range(48 * 60 + 1)}

# Columns of the file of outcomes.
RECORD, DEATH = "RecordID", "In-hospital_death"


def read_stays(
    folder: Path, outcomes: Path | None, features: tuple[str, ...], tally: Tally
) -> tuple[LongRows, Outcomes | None]:
    """Read a folder of text files.

    Args:
        folder: With files named by the number of the stay, such as ``132539.txt``.
        outcomes: The file of outcomes; ``None`` to look for it in the folder and beside it.
        features: The variables that are known.
        tally: Where rows and faults are counted. Headers and the rows of RecordID are none.

    Raises:
        DataError: If there are no such files, or it is not clear which file holds the outcomes, or
            that holds none.
    """
    files = sorted(file for file in folder.glob("*.txt") if file.stem.isdigit())
    if not files:
        raise DataError(f"{folder}: no text files named by a number, such as 132539.txt")
    stays = _Stays(features, tally)
    for file in files:
        stays.read(file)
    known = outcomes or _find_outcomes(folder)
    return stays.rows(), None if known is None else _read_outcomes(known, tally)


class _Stays:
    """Gathers the rows of all files in flat arrays: as Python objects they would fill gigabytes."""

    def __init__(self, features: tuple[str, ...], tally: Tally) -> None:
        self.features = features
        self.column = {name: number for number, name in enumerate(features)}
        self.tally = tally
        self.keys: list[Key] = []
        self.series, self.lines, self.found = array("q"), array("q"), array("q")
        self.minutes, self.values = array("q"), array("d")

    def read(self, file: Path) -> None:
        """Read one file; what cannot be read in it is counted."""
        series = len(self.keys)
        self.keys.append((file.stem, ""))
        record = None
        for row, line in _whole_lines(file, self.tally):
            try:
                time, name, text = line.split(",")
                if name == RECORD:
                    record = text.strip()
                    continue
                minute, column, value = MINUTES[time], self.column[name], number(text)
            except (ValueError, KeyError):
                fields = [field.strip() for field in line.split(",")]
                if fields in ([""], HEADER):
                    continue
                if fields[1:2] == [RECORD] and len(fields) == 3:
                    record = fields[2]
                    continue
                parsed = self._parse(fields, f"{file.name}, line {row}: {shown(line)}")
                if parsed is None:
                    continue
                minute, column, value = parsed
            self.tally.rows += 1
            self.series.append(series)
            self.lines.append(row)
            self.minutes.append(minute)
            self.found.append(column)
            self.values.append(value)
        if record != file.stem:
            reason = "RecordID that is missing or not the name of its file (the name counts)"
            self.tally.add(reason, f"{file.name}: {record}", unit="note")

    def _parse(self, fields: list[str], place: str) -> tuple[int, int, float] | None:
        """A line that is not quite as it should be: what it says, or a fault counted."""
        if len(fields) != 3:
            fault = "line that has not three fields"
        elif (minute := clock(fields[0])) is None:
            fault = "time that is not HH:MM"
        elif fields[1] not in self.column:
            fault = "unknown variable"
        else:
            try:
                return minute, self.column[fields[1]], number(fields[2])
            except ValueError:
                fault = "value that is not a number"
        self.tally.rows += 1
        self.tally.add(fault, place)
        return None

    def rows(self) -> LongRows:
        """All rows that could be read."""
        minutes = np.array(self.minutes, dtype=np.int64)

        def place(row: int) -> str:
            subject, _ = self.keys[self.series[row]]
            time = f"{minutes[row] // 60:02d}:{minutes[row] % 60:02d}"
            text = f"{time},{self.features[self.found[row]]},{self.values[row]:g}"
            return f"{subject}.txt, line {self.lines[row]}: {text!r}"

        return LongRows(
            self.keys,
            np.array(self.series, dtype=np.int64),
            minutes / 60.0,
            np.array(self.found, dtype=np.int64),
            np.array(self.values, dtype=np.float64),
            place,
        )


def _whole_lines(file: Path, tally: Tally) -> Iterable[tuple[int, str]]:
    """Numbered lines, without the last if that does not end."""
    lines, rest = text_lines(file)
    if rest.strip():
        # Every line of the originals ends. In one that does not, 81 may have become 8.
        tally.rows += 1
        place = f"{file.name}, line {len(lines) + 1}: {shown(rest)}"
        tally.add("line without an end, which may have been cut off", place)
    return enumerate(lines, 1)


def _find_outcomes(folder: Path) -> Path | None:
    """The outcomes within the folder; else beside it, those of its letter (set-a, Outcomes-a)."""
    letter = re.fullmatch(r"set-(\w)", folder.name)
    beside = f"Outcomes-{letter[1]}.txt" if letter else "Outcomes*.txt"
    for found in (sorted(folder.glob("Outcomes*.txt")), sorted(folder.parent.glob(beside))):
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise DataError(
                f"{folder}: more than one file of outcomes ({names}); say which with `outcomes`"
            )
        if found:
            return found[0]
    return None


def _read_outcomes(path: Path, tally: Tally) -> Outcomes:
    lines, rest = text_lines(path)
    names = [name.strip() for name in (lines[0] if lines else rest).split(",")]
    if RECORD not in names or DEATH not in names:
        raise DataError(
            f"{path}: the first line is {','.join(names)[:80]!r}; expected a header with {RECORD} "
            f"and {DEATH}: this is no file of outcomes"
        )
    record, death = names.index(RECORD), names.index(DEATH)
    labels: dict[Key, int] = {}
    for row, line in enumerate([*lines[1:], rest], 2):
        fields = [field.strip() for field in line.split(",")]
        place = f"{path.name}, line {row}: {shown(line)}"
        if not line.strip():
            continue
        if len(fields) != len(names) or fields[death] not in ("0", "1"):
            tally.add("outcome that is neither 0 nor 1", place, unit="note")
            continue
        label = int(fields[death])
        if labels.setdefault((fields[record], ""), label) != label:
            tally.add("another outcome of the same record (the first is kept)", place, unit="note")
    return Outcomes(labels, None, path.name)
