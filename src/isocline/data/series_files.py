"""Series of the user's own, read from and written to tables in long form."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..atomic import atomic_path
from .errors import DataError
from .long_outcomes import find_outcomes, is_outcomes, read_outcomes
from .long_rows import Rules, assemble, nothing_left
from .long_tables import TABLES, read_rows
from .reading import Tally
from .series import SeriesSet

__all__ = ["read_series", "write_series"]


def table_files(path: Path) -> list[Path]:
    """The tables of a folder, without those of outcomes, or the one that is named.

    Raises:
        DataError: If there is none.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected a table as .csv or .parquet")
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in TABLES]
        files = sorted(file for file in files if not is_outcomes(file))
        if not files:
            raise DataError(f"{path}: no .csv and no .parquet file of series in this folder")
        return files
    if path.suffix.lower() not in TABLES:
        raise DataError(
            f"{path}: the suffix {path.suffix or '(none)'!r} says no format that is read here; "
            f"expected one of {', '.join(TABLES)}: convert it"
        )
    return [path]


def read_series(
    path: Path | str,
    outcomes: Path | str | None = None,
    *,
    features: Sequence[str] | None = None,
) -> SeriesSet:
    """Read series from a table in long form, with one measurement in each row.

    A header names the columns, in any order and any case, beside which there may be others:

    - ``subject``, or ``record``, ``id``, ``RecordID``: of whom. Where a table has both a subject
      and a record, each record is a series, and the subject says which of them belong together;
    - ``time``, or ``hour``, ``minute``: a number, or ``HH:MM``, which is taken in hours;
    - ``variable`` (or ``parameter``) and ``value``. Without both, each row is an event, which has a
      time alone.

    A table of outcomes may add a ``label`` (a whole number) to each subject or record, and the
    time ``until`` which it was watched. It is the file ``outcomes.csv`` beside the table, or that
    of the table's own name, such as ``visits.outcomes.csv``; or ``.parquet`` in place of ``.csv``.

    Args:
        path: A ``.csv`` or ``.parquet`` file, or a folder with any number of these.
        outcomes: The table of outcomes, if it is another.
        features: The variables to read, in this order; others count as faults. ``None``: all that
            are found, in the order of the alphabet.

    Returns:
        Times as they stand, float64. Rows with a fault are left out and counted in `reading`; of
        several values at one time the mean is kept. A series without an outcome is left out where
        there are outcomes.

    Raises:
        DataError: If a file is missing or no such table, or no series is left; or if it is Parquet
            and pyarrow is not installed.
    """
    wanted = None if features is None else tuple(features)
    return read_long(Path(path), outcomes, wanted)


def read_long(
    path: Path,
    outcomes: Path | str | None,
    features: tuple[str, ...] | None,
    *,
    hours: bool = False,
    rules: Rules | None = None,
) -> SeriesSet:
    """As `read_series`, for readers of one kind of data.

    Args:
        path: A file or folder.
        outcomes: The table of outcomes, or ``None`` to look for it.
        features: See `read_series`.
        hours: Whether times in a column of minutes become hours.
        rules: What a measurement must be.
    """
    tally = Tally()
    files = table_files(path)
    try:
        table = read_rows(files, tally, features, hours)
        known = find_outcomes(path) if outcomes is None else [Path(outcomes)]
        found = read_outcomes(known, tally) if known else None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not (table.features or table.events):
        # Without a name of a feature, measurements would pass for events.
        raise nothing_left(tally, str(path))
    return assemble(table.rows, table.features, found, rules or Rules(), tally, str(path))


def write_series(series: SeriesSet, path: Path | str) -> None:
    """Write series to a table in long form, from which `read_series` makes them again.

    Labels and ends of windows go into a second file, named as the first with ``.outcomes`` before
    its suffix; one that stood there is removed if there are none. Both are written whole or not at
    all. Numbers keep all their digits; times come back in double precision. Rows of a series at
    equal times come back as one.

    Args:
        series: The set.
        path: A file with the suffix ``.csv`` or ``.parquet``.

    Raises:
        DataError: If the format is another, if a name is empty, has spaces around it or is of two
            lines, or if a row or series observes nothing, which the long form cannot say.
    """
    path = Path(path)
    if path.suffix.lower() not in TABLES:
        raise DataError(f"{path}: expected the suffix {' or '.join(TABLES)}, to say the format")
    _check_writable(series, path)
    numbered = len(set(series.subjects)) < len(series)
    who: dict[str, list[Any]] = {"subject": list(series.subjects)}
    if numbered:
        who["record"] = [str(number) for number in range(len(series))]
    outcomes = dict(who)
    if series.labels is not None:
        outcomes["label"] = series.labels.tolist()
    if series.until is not None:
        outcomes["until"] = series.until.tolist()
    beside = path.with_suffix(f".outcomes{path.suffix}")
    if len(outcomes) > len(who):
        _write(outcomes, beside)
    else:
        beside.unlink(missing_ok=True)
    _write(_long(series, who), path)


def _long(series: SeriesSet, who: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The columns of the table."""
    mask, times = torch.cat(series.mask), torch.cat(series.times).double()
    index = torch.repeat_interleave(torch.arange(len(series)), series.lengths)
    if not series.features:
        columns = {name: [part[i] for i in index.tolist()] for name, part in who.items()}
        return {**columns, "time": times.tolist()}
    rows, features = mask.nonzero().T
    columns = {name: [part[i] for i in index[rows].tolist()] for name, part in who.items()}
    return {
        **columns,
        "time": times[rows].tolist(),
        "variable": [series.features[i] for i in features.tolist()],
        "value": torch.cat(series.values).double()[rows, features].tolist(),
    }


def _check_writable(series: SeriesSet, path: Path) -> None:
    for name in (*series.subjects, *series.features):
        if not name or name != name.strip() or "\n" in name or "\r" in name:
            raise DataError(
                f"{path}: the name {name!r} would not be read again as it is; expected one line, "
                "without spaces around it"
            )
    known = series.labels is not None or series.until is not None
    for index, (subject, seen) in enumerate(zip(series.subjects, series.mask, strict=True)):
        if series.features and not bool(seen.any(1).all() and len(seen)):
            raise DataError(
                f"{path}: series {index} ({subject}) has no row, or one that observes nothing, "
                "which a table of measurements cannot say; leave such rows out"
            )
        if not series.features and not len(seen) and not known:
            raise DataError(
                f"{path}: series {index} ({subject}) has no event, which can be said only with "
                "labels or ends of windows; give `until`"
            )


def _write(columns: dict[str, list[Any]], path: Path) -> None:
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".csv":
            with temporary.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows(zip(*columns.values(), strict=True))
            return
        import pandas as pd

        try:
            pd.DataFrame(columns).to_parquet(temporary, index=False)
        except ImportError as error:
            raise DataError(
                f"{path}: Parquet needs pyarrow; install `isocline[parquet]`, or write .csv"
            ) from error
