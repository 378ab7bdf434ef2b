"""Strict reader of tables in ``.npy`` and ``.csv`` files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError
from .tables import Table, checked_points, checked_table

__all__ = ["read_points", "read_table"]


def read_table(path: Path | str) -> Table:
    """Read a table of real numbers.

    - ``.npy``: a NumPy array of two dimensions, floats or integers. The columns are named x1, x2
      and so on.
    - ``.csv``: numbers with a decimal point, separated by commas. A first row without any number
      in it is taken for the names of the columns; without one, they are named as above.

    Args:
        path: The file. Its suffix, in any case, says the format.

    Returns:
        The values as float32. Messages count rows from 1, a header not among them.

    Raises:
        DataError: If the file is missing, empty, damaged or of another format; if a value is no
            number, NaN or infinite; if there are fewer than ten rows or a column is constant.
    """
    return checked_table(*_read(Path(path)), str(path))


def read_points(path: Path | str) -> Table:
    """Read points at which something is to be evaluated: as `read_table`, but any number of rows.

    Raises:
        DataError: If the file is missing, empty, damaged or of another format, or a value is no
            number, NaN or infinite.
    """
    return checked_points(*_read(Path(path)), str(path))


def _read(path: Path) -> tuple[npt.NDArray[np.generic], tuple[str, ...]]:
    """Values and names of columns, unchecked."""
    readers = {".npy": _read_npy, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: the suffix {path.suffix or '(none)'!r} says no format that is read here; "
            f"expected one of {', '.join(readers)}: convert it"
        )
    if not path.exists():
        raise DataError(f"{path}: no such file; expected a table as .npy or .csv")
    try:
        return reader(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"x{number + 1}" for number in range(count))


def _read_npy(path: Path) -> tuple[npt.NDArray[np.generic], tuple[str, ...]]:
    try:
        # Never unpickle: a pickle runs whatever code its author wrote into it.
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        if "Object arrays" in str(error):
            raise DataError(
                f"{path}: an array of Python objects, which is not read, for it could run code; "
                "convert it with `array.astype(float)` and save it again"
            ) from error
        raise DataError(
            f"{path}: not a sound .npy file ({error}); save it again with `numpy.save`"
        ) from error
    if not isinstance(values, np.ndarray):
        values.close()
        raise DataError(f"{path}: an archive of arrays (.npz); save the one array as .npy")
    return values, _numbered(values.shape[1] if values.ndim == 2 else 0)


def _read_csv(path: Path) -> tuple[npt.NDArray[np.generic], tuple[str, ...]]:
    # Imported here, for a .npy file needs none of it, and it takes its time.
    import pandas as pd

    options: dict[str, Any] = {
        "index_col": False,
        "skipinitialspace": True,
        "encoding": "utf-8-sig",
        "low_memory": False,
    }
    try:
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **options)
        cells = [str(cell).strip() for cell in first.iloc[0]]
        header = not any(map(_is_number, cells))
        with warnings.catch_warnings():
            # Rows longer than the first would otherwise lose their ends with a warning only.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path, header=0 if header else None, names=range(len(cells)), **options
            )
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path}: empty; expected rows of numbers, separated by commas") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise DataError(
            f"{path}: not a table ({str(error).strip()}); expected as many values in each row as "
            "in the first, separated by commas"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error}); expected .csv in UTF-8") from error
    columns = _named(cells, path) if header else _numbered(len(cells))
    for number, column in enumerate(columns):
        _check_numeric(frame[number], column, path)
    return frame.to_numpy(dtype=np.float64), columns


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _named(cells: list[str], path: Path) -> tuple[str, ...]:
    if "" in cells:
        raise DataError(
            f"{path}: the header has no name for column {cells.index('') + 1}; name every column. "
            "(If pandas wrote its index there, write the file with `index=False`)"
        )
    twice = sorted({cell for cell in cells if cells.count(cell) > 1})
    if twice:
        raise DataError(
            f"{path}: the header names more than one column {twice[0]!r}; give each its own name"
        )
    return tuple(cells)


def _check_numeric(values: Any, column: str, path: Path) -> None:
    """Refuse a pandas Series that is not all numbers, naming its first fault."""
    import pandas as pd

    if values.dtype.kind in "fiu":
        return
    text = values.astype(str)
    wrong = np.flatnonzero(
        (pd.to_numeric(text, errors="coerce").isna() & values.notna()).to_numpy()
    )
    if len(wrong) == 0:  # only missing values, which are counted later
        return
    raise DataError(
        f"{path}: {len(wrong):,} value(s) in column {column!r} are not numbers, the first is "
        f"{str(values.iloc[wrong[0]])[:40]!r} in row {wrong[0] + 1}; expected numbers with a "
        "decimal point, separated by commas: correct them, or leave the column out"
    )
