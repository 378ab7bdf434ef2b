"""Tables whose columns have types, given as frames: what is tested needs no pyarrow."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from isocline.data import Daily, DataError, event_series, read_series, write_series


def test_parquet_without_pyarrow_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"Parquet needs pyarrow; install `isocline\[parquet\]`"):
        read_series(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"Parquet needs pyarrow; .*or write .csv"):
        write_series(event_series(Daily()), tmp_path / "b.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]


def _frame(**changes: object) -> pd.DataFrame:
    columns = {
        "subject": [7, 7, 8],
        "minute": [0, 60, 30],
        "variable": ["y", "x", "x"],
        "value": [1.5, 2.5, 3.5],
    }
    return pd.DataFrame(columns | changes)


@pytest.mark.parametrize(
    ("changes", "kept", "reason"),
    [
        ({}, 3, None),
        ({"subject": [7.0, 7.0, 8.0]}, 3, None),
        ({"subject": [7.0, 7.0, None]}, 2, "row without a subject"),
        ({"variable": ["y", "x", None]}, 2, "row without a variable"),
        ({"variable": ["y", "x", "z"]}, 2, "unknown variable"),
        ({"value": [1.5, 2.5, None]}, 2, "value that is missing or not finite"),
        ({"minute": [0.0, 60.0, None]}, 2, "time that is missing or not finite"),
    ],
)
def test_a_typed_table_is_read_alike(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    kept: int,
    reason: str | None,
) -> None:
    monkeypatch.setattr(pd, "read_parquet", lambda _: _frame(**changes))
    (tmp_path / "a.parquet").touch()
    series = read_series(tmp_path / "a.parquet", features=("x", "y"))
    assert series.subjects == ("7", "8")[: len(series)]
    assert series.times[0].tolist() == [0, 60]
    assert series.values[0].tolist() == [[0, 1.5], [2.5, 0]]
    assert series.reading is not None
    assert (series.reading.rows, series.reading.kept) == (3, kept)
    faults = dict(series.reading.faults)
    # Of series 8 nothing may be left, which is said too.
    assert ("series without a measurement" in faults) == (
        len(series) == 1 and kept == 2 and "subject" not in changes
    )
    faults.pop("series without a measurement", None)
    assert set(faults) == ({reason} if reason else set())
    for fault in faults.values():
        assert fault.example.startswith("a.parquet, row 3: ")


def test_a_typed_table_of_another_kind_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").touch()
    monkeypatch.setattr(pd, "read_parquet", lambda _: _frame(value=["1", "2", "3"]))
    with pytest.raises(
        DataError, match=r"a.parquet: column 'value' is of type str; expected float"
    ):
        read_series(tmp_path / "a.parquet")


def test_ends_of_windows_keep_their_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written with 15 digits, 99999999.7422 + 0.1 came back as another number."""
    end = 99999999.7422 + 0.1 / 3
    frames = {
        "a.parquet": _frame(),
        "a.outcomes.parquet": pd.DataFrame({"id": [7.0, 8.0], "until": [end, 90.0]}),
    }
    monkeypatch.setattr(pd, "read_parquet", lambda path: frames[path.name])
    for name in frames:
        (tmp_path / name).touch()
    series = read_series(tmp_path / "a.parquet")
    assert series.subjects == ("7", "8")
    assert series.until is not None
    assert series.until.tolist() == [end, 90.0]


def test_two_columns_may_name_a_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pd, "read_parquet", lambda _: _frame(record=["u", "v", None]))
    (tmp_path / "a.parquet").touch()
    series = read_series(tmp_path / "a.parquet")
    assert sorted(series.subjects) == ["7", "7", "8"]
    assert series.lengths.tolist() == [1, 1, 1]
