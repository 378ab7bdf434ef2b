"""Tables in long form, one measurement in a row, as CSV or Parquet."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError
from .long_rows import Key, LongRows
from .reading import Tally
from .text_rows import clock, number, shown, text_lines

__all__ = ["COLUMNS", "TABLES", "Columns", "LongTable", "find_columns", "read_cells", "read_rows"]

TABLES = (".csv", ".parquet")

# What the columns may be called, in any case.
COLUMNS = {
    "subject": ("subject", "subject_id", "patient", "patient_id"),
    "record": ("record", "recordid", "record_id", "id", "stay_id"),
    "time": ("time", "t", "hour", "hours", "minute", "minutes"),
    "variable": ("variable", "parameter", "feature"),
    "value": ("value",),
    "label": ("label", "in_hospital_death", "in-hospital_death"),
    "until": ("until",),
}
MINUTES = ("minute", "minutes")


@dataclass(frozen=True)
class Columns:
    """Where each column stands, under its name in `COLUMNS`, and how many there are."""

    at: dict[str, int]
    count: int
    minutes: bool

    def key(self, fields: Sequence[str]) -> Key:
        """The series of a row: subject and record, or whichever of them there is."""
        parts = [fields[self.at[name]].strip() for name in ("subject", "record") if name in self.at]
        return (parts[0], parts[1] if len(parts) > 1 else "")


@dataclass(frozen=True)
class LongTable:
    """Rows and the names of their features; for events, which have none, `events` is true."""

    rows: LongRows
    features: tuple[str, ...]
    events: bool


def find_columns(names: Sequence[str], path: Path, wanted: Sequence[str]) -> Columns:
    """Find the columns by their names.

    Raises:
        DataError: If one that is wanted is missing, or two have the same meaning.
    """
    at: dict[str, int] = {}
    lowered = [name.strip().lower() for name in names]
    for meaning, aliases in COLUMNS.items():
        found = [place for place, name in enumerate(lowered) if name in aliases]
        if len(found) > 1:
            twice = " and ".join(repr(names[place]) for place in found)
            raise DataError(f"{path}: the columns {twice} both mean the {meaning}; leave one out")
        if found:
            at[meaning] = found[0]
    missing = [name for name in wanted if name not in at]
    if "subject" not in at and "record" not in at:
        missing.insert(0, "subject")
    if missing:
        raise DataError(
            f"{path}: no column for the {' and the '.join(missing)} in {shown(','.join(names))}; "
            f"expected a header with {', '.join(f'`{COLUMNS[name][0]}`' for name in missing)}, "
            "separated by commas"
        )
    time = lowered[at["time"]] if "time" in at else ""
    return Columns(at, len(names), time in MINUTES)


def read_rows(
    paths: Sequence[Path], tally: Tally, features: tuple[str, ...] | None, hours: bool
) -> LongTable:
    """Read the rows of all files; what cannot be read is counted.

    Args:
        paths: CSV and Parquet files.
        tally: Where rows and faults are counted.
        features: The variables that are known; ``None`` for all that are found, in the order of
            the alphabet.
        hours: Whether times in a column of minutes become hours.

    Raises:
        DataError: If a file is no table in long form, or only some of them have variables.
    """
    gathered = _Gathered(tally, features, hours)
    for path in paths:
        if path.suffix.lower() == ".csv":
            gathered.read_csv(path)
        else:
            gathered.read_parquet(path)
    return gathered.table()


def read_cells(path: Path) -> list[tuple[int, list[str]]]:
    """All rows of a small table as text, each with its number, the header first."""
    if path.suffix.lower() == ".csv":
        lines, rest = text_lines(path)
        numbered = enumerate([*lines, rest], 1)
        return [(row, _fields(line)) for row, line in numbered if line.strip()]
    frame = _read_frame(path)
    columns = [_words(frame.iloc[:, place]).tolist() for place in range(frame.shape[1])]
    rows = enumerate(zip(*columns, strict=True), 1)
    return [
        (0, [str(name) for name in frame.columns]),
        *((row, list(cells)) for row, cells in rows),
    ]


def _read_frame(path: Path) -> Any:
    """A Parquet file as a pandas frame.

    Raises:
        DataError: If pyarrow is not installed, or the file is damaged.
    """
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise DataError(
            f"{path}: Parquet needs pyarrow; install `isocline[parquet]`, or convert it to .csv"
        ) from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a sound Parquet file ({error}); make it again") from error


class _Gathered:
    """The rows of several files in flat arrays: as Python objects they would fill gigabytes."""

    def __init__(self, tally: Tally, features: tuple[str, ...] | None, hours: bool) -> None:
        self.tally = tally
        self.fixed = features is not None
        self.hours = hours
        self.names = {name: index for index, name in enumerate(features or ())}
        self.keys: dict[Key, int] = {}
        self.events: bool | None = None
        self.files: list[Path] = []
        self.series, self.found, self.file, self.lines = (array("q") for _ in range(4))
        self.times, self.values = array("d"), array("d")

    def read_csv(self, path: Path) -> None:
        """Read one CSV file, line by line: a stray quote must not swallow those that follow."""
        lines, rest = text_lines(path)
        lines.append(rest)
        head = next((row for row, line in enumerate(lines) if line.strip()), None)
        if head is None:
            self.tally.add("empty file", path.name, unit="note")
            return
        columns = self._columns(_fields(lines[head]), path)
        for row, line in enumerate(lines[head + 1 :], head + 2):
            if not line or line.isspace():
                continue
            self.tally.rows += 1
            fault = self._add(_fields(line), columns, row)
            if fault is not None:
                self.tally.add(fault, f"{path.name}, line {row}: {shown(line)}")

    def _columns(self, names: list[str], path: Path) -> Columns:
        columns = find_columns(names, path, ("time",))
        measured = [name for name in ("variable", "value") if name in columns.at]
        if len(measured) == 1:
            find_columns(names, path, ("time", "variable", "value"))
        events = not measured
        if self.events not in (None, events) or (events and self.fixed):
            raise DataError(
                f"{path}: has no columns for variable and value, so that its rows are events, but "
                "measurements are expected here; read events and measurements apart"
                if events
                else f"{path}: has measurements, but the files before it events; read them apart"
            )
        self.events = events
        self.files.append(path)
        return columns

    def _add(self, fields: list[str], columns: Columns, row: int) -> str | None:
        """Add a row; or say what is wrong with it."""
        at = columns.at
        if len(fields) != columns.count:
            return "row with more or fewer fields than the header"
        key = columns.key(fields)
        if not key[0]:
            return "row without a subject"
        series = self.keys.setdefault(key, len(self.keys))
        try:
            time = number(fields[at["time"]])
        except ValueError:
            minutes = clock(fields[at["time"]])
            if minutes is None or columns.minutes:
                return "time that is not a number"
            time = minutes / 60.0
        feature, value = 0, 0.0
        if not self.events:
            name = fields[at["variable"]].strip()
            found = self._feature(name)
            if found is None:
                return "unknown variable" if name else "row without a variable"
            try:
                feature, value = found, number(fields[at["value"]])
            except ValueError:
                return "value that is not a number"
        self.series.append(series)
        self.times.append(time / 60.0 if columns.minutes and self.hours else time)
        self.found.append(feature)
        self.values.append(value)
        self.file.append(len(self.files) - 1)
        self.lines.append(row)
        return None

    def _feature(self, name: str) -> int | None:
        if self.fixed or not name:
            return self.names.get(name)
        return self.names.setdefault(name, len(self.names))

    def read_parquet(self, path: Path) -> None:
        """Read one Parquet file, whose columns have types."""
        frame = _read_frame(path)
        columns = self._columns([str(name) for name in frame.columns], path)
        size = len(frame)
        self.tally.rows += size

        def column(name: str) -> Any:
            return frame.iloc[:, columns.at[name]]

        times = _numbers(column("time"), path)
        if columns.minutes and self.hours:
            times = times / 60.0
        series = self._series([column(k) for k in ("subject", "record") if k in columns.at])
        found, values = np.zeros(size, dtype=np.int64), np.zeros(size)
        faults = {"row without a subject": series < 0}
        if not self.events:
            values = _numbers(column("value"), path)
            codes, names = _coded(column("variable"))
            known = [self._feature(name) for name in names]
            # One place more, for the code -1 of a row without a name.
            of_code = [-1 if code is None else code for code in known]
            found = np.array([*of_code, -1], dtype=np.int64)[codes]
            faults["row without a variable"] = np.array([*(not name for name in names), True])[
                codes
            ]
            faults["unknown variable"] = found < 0
        sound = np.ones(size, dtype=np.bool_)
        for reason, wrong in faults.items():
            rows = np.flatnonzero(wrong & sound)
            if len(rows):
                content = shown(",".join(map(str, frame.iloc[int(rows[0])])))
                self.tally.add(reason, f"{path.name}, row {rows[0] + 1}: {content}", len(rows))
                sound &= ~wrong
        file = np.full(size, len(self.files) - 1, dtype=np.int64)
        lines = np.arange(1, size + 1)
        for target, part in (
            (self.series, series),
            (self.found, found),
            (self.file, file),
            (self.lines, lines),
        ):
            target.frombytes(part[sound].astype(np.int64).tobytes())
        self.times.frombytes(times[sound].tobytes())
        self.values.frombytes(values[sound].tobytes())

    def _series(self, parts: list[Any]) -> npt.NDArray[np.int64]:
        """Index of the series of each row, -1 for those without a subject."""
        codes, subjects = _coded(parts[0])
        again, records = _coded(parts[1]) if len(parts) > 1 else (np.full_like(codes, -1), [])
        pairs, inverse = np.unique(codes * (len(records) + 1) + again + 1, return_inverse=True)
        series = []
        for pair in pairs.tolist():
            subject, record = divmod(pair, len(records) + 1)
            name = subjects[subject] if subject >= 0 else ""
            key = (name, records[record - 1] if record else "")
            series.append(self.keys.setdefault(key, len(self.keys)) if name else -1)
        return np.array(series, dtype=np.int64)[inverse]

    def table(self) -> LongTable:
        """All rows that could be read."""
        names = list(self.names) if self.fixed else sorted(self.names)
        column = {name: index for index, name in enumerate(names)}
        renumbered = np.array([column[name] for name in self.names] or [0], dtype=np.int64)
        keys, features = list(self.keys), renumbered[np.array(self.found, dtype=np.int64)]
        times, values = np.array(self.times, dtype=float), np.array(self.values, dtype=float)

        def place(row: int) -> str:
            where = "line" if self.files[self.file[row]].suffix.lower() == ".csv" else "row"
            what = "" if self.events else f", {names[features[row]]} = {values[row]:g}"
            subject, record = keys[self.series[row]]
            who = f"{subject}, {record}" if record else subject
            file = self.files[self.file[row]].name
            return f"{file}, {where} {self.lines[row]}: {who}, time {times[row]:g}{what}"

        series = np.array(self.series, dtype=np.int64)
        return LongTable(
            LongRows(keys, series, times, features, values, place), tuple(names), bool(self.events)
        )


def _fields(line: str) -> list[str]:
    return next(csv.reader([line]), []) if '"' in line else line.split(",")


def _numbers(column: Any, path: Path) -> npt.NDArray[np.float64]:
    """A column of a frame as float64, NaN where it has nothing.

    Raises:
        DataError: If its type is none of numbers.
    """
    if getattr(column.dtype, "kind", "O") not in "fiu":
        raise DataError(
            f"{path}: column {column.name!r} is of type {column.dtype}; expected floats or integers"
        )
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))


def _coded(column: Any) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Different entries of a column of a frame as text, and which each row has, -1 for nothing."""
    codes, found = column.factorize()
    return codes.astype(np.int64), _words(found.to_series()).tolist()


def _words(column: Any) -> npt.NDArray[np.str_]:
    """A column of a frame as text, empty where it has nothing; 7.0 is 7."""
    kind = getattr(column.dtype, "kind", "O")
    if kind == "f":
        column = column.map(lambda entry: "" if entry != entry else repr(entry).removesuffix(".0"))
    elif kind not in "iu":
        column = column.where(column.notna(), "")
    return np.array([str(entry).strip() for entry in column], dtype=np.str_)
