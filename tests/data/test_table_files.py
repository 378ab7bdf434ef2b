"""Table files: what is read, and every kind of fault with its name and place."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from isocline.data import DataError, read_points, read_table

VALUES = np.random.default_rng(0).normal(size=(12, 3))


def _npy(path: Path, values: object) -> Path:
    np.save(path, values, allow_pickle=True)  # type: ignore[arg-type]
    return path


def _csv(path: Path, *lines: str, rows: int = 12) -> Path:
    """The lines, then sound rows of three numbers."""
    sound = [",".join(map(repr, row)) for row in VALUES[:rows].tolist()]
    path.write_text("\n".join([*lines, *sound]) + "\n")
    return path


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", ">f8", "i8", "u1"])
def test_reads_npy_of_any_real_type(tmp_path: Path, dtype: str) -> None:
    values = (100 * np.abs(VALUES)).astype(dtype)
    table = read_table(_npy(tmp_path / "a.npy", values))
    assert table.columns == ("x1", "x2", "x3")
    assert table.width == 3
    assert len(table) == 12
    assert table.values.dtype == torch.float32
    np.testing.assert_array_equal(table.values.numpy(), values.astype("f4"))


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ((), ("x1", "x2", "x3")),
        (("a,b c,d",), ("a", "b c", "d")),
        (('"a", "b, c" ,d',), ("a", "b, c", "d")),
        (("\ufeffa,b,c",), ("a", "b", "c")),
        (("", "a,b,c", ""), ("a", "b", "c")),
    ],
)
def test_reads_csv_with_and_without_header(
    tmp_path: Path, header: tuple[str, ...], columns: tuple[str, ...]
) -> None:
    table = read_table(str(_csv(tmp_path / "A.CSV", *header)))
    assert table.columns == columns
    np.testing.assert_array_equal(table.values.numpy(), VALUES.astype("f4"))


def test_reads_what_pandas_writes(tmp_path: Path) -> None:
    frame = pd.DataFrame(VALUES, columns=["a", "b", "c"]).assign(d=range(12), e=[10**25] * 11 + [0])
    frame.to_csv(tmp_path / "a.csv", index=False)
    expected = frame.to_numpy(dtype=float).astype("f4")
    np.testing.assert_array_equal(read_table(tmp_path / "a.csv").values.numpy(), expected)


@given(
    values=npst.arrays(
        np.float64,
        st.tuples(st.integers(10, 20), st.integers(1, 4)),
        elements=st.floats(-1e6, 1e6, width=32),
        unique=True,
    ),
    header=st.booleans(),
)
def test_both_formats_keep_every_value(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, header: bool
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    names = [f"column {number}" for number in range(values.shape[1])]
    pd.DataFrame(values, columns=names).to_csv(folder / "a.csv", index=False, header=header)
    for path in (_npy(folder / "a.npy", values), folder / "a.csv"):
        read = read_table(path).values.numpy()
        np.testing.assert_array_equal(read, values.astype("f4"))


def _with(value: float, row: int, column: int) -> np.ndarray:
    values = VALUES.copy()
    values[row, column] = value
    return values


def _column(fill: object) -> np.ndarray:
    values = VALUES.copy()
    values[:, 1] = fill
    return values


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (VALUES[:, 0], r"an array of shape \(12,\); expected two dimensions.*reshape"),
        (VALUES[None], r"an array of shape \(1, 12, 3\)"),
        (np.float64(3), r"an array of shape \(\);"),
        (VALUES[:0], r"empty, its shape is \(0, 3\)"),
        (VALUES[:, :0], r"empty, its shape is \(12, 0\)"),
        (VALUES[:9], r"9 row\(s\), but at least 10 are needed"),
        (VALUES + 0j, "values of type complex128; expected real floats or integers"),
        (VALUES > 0, "values of type bool"),
        (VALUES.astype(str), "values of type <U"),
        (VALUES.astype(object), "an array of Python objects, which is not read.*astype"),
        (_with(np.nan, 4, 2), r"1 value\(s\) are missing, NaN or inf.*row 5, column 'x3'"),
        (_with(-np.inf, 0, 1), r"1 value\(s\) are missing, NaN or inf.*row 1, column 'x2'"),
        (_column(np.nan), r"12 value\(s\) are missing.*row 1, column 'x2'"),
        (_with(1e300, 3, 0), r"1e\+300 in row 4, column 'x1' is too large for single precision"),
        (
            _column(7.5),
            r"1 column\(s\) do not vary \('x2'; the first is 7\.5 in every row\).*leave",
        ),
        (
            _column(1e9 + np.arange(12)),
            r"1 column.* goes from 1000000000 to 1000000011, one .*; subtract",
        ),
        (np.ones((12, 11)), r"11 column\(s\) do not vary \('x1', .*'x8' and 3 more; the first"),
    ],
)
def test_a_bad_array_is_named_with_its_fault(
    tmp_path: Path, values: np.ndarray, found: str
) -> None:
    path = _npy(tmp_path / "bad.npy", values)
    with pytest.raises(DataError, match=f"bad.npy: {found}"):
        read_table(path)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda path: path.write_bytes(b""), "not a sound .npy file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), "not a sound .npy file"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), "not a sound .npy file"),
        (lambda path: path.write_bytes(b"1,2,3\n" * 20), "not a sound .npy file"),
        (lambda path: path.unlink(), "no such file; expected a table as .npy or .csv"),
        (lambda path: (path.unlink(), path.mkdir()), r"cannot be read \("),
    ],
)
def test_a_damaged_npy_is_named_with_its_fault(
    tmp_path: Path, damage: Callable[[Path], object], found: str
) -> None:
    path = _npy(tmp_path / "some.npy", VALUES)
    damage(path)
    with pytest.raises(DataError, match=f"some.npy: {found}"):
        read_table(path)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = _npy(tmp_path / "trap.npy", np.array([Trap()], dtype=object))
    with pytest.raises(DataError, match=r"trap.npy: an array of Python objects"):
        read_table(path)
    path.write_bytes(np.array([Trap()], dtype=object).dumps())
    with pytest.raises(DataError, match=r"trap.npy: not a sound .npy file"):
        read_table(path)
    assert not (tmp_path / "sprung").exists()


def test_an_archive_is_told_from_an_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", VALUES)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"a.npy: an archive of arrays \(.npz\)"):
        read_table(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["a.npz", "a.txt", "a", "a.csv.gz"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"the suffix '.*' says no format.*one of .npy, .csv"):
        read_table(tmp_path / name)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (("1,2,oops",), r"1 value\(s\) in column 'x3' are not numbers, the first is 'oops' in row"),
        (("1,2,3", "1,?,3"), r"1 value\(s\) in column 'x2' .* first is '\?' in row 2;"),
        (("a,b,c", "1,2,3", "1,True,3"), r"1 value\(s\) in column 'b' .* is 'True' in row 2;"),
        (
            ("a,b,c", "1,2,2024-01-01"),
            r"1 value.* in column 'c' .* first is '2024-01-01' in row 1;",
        ),
        (("a,b,c", "1,,3", "1,2,NA"), r"2 value\(s\) are missing.* row 1, column 'b'"),
        (("a,b,c", "1,2"), r"1 value\(s\) are missing.* row 1, column 'c'"),
        (("a,b,c", "1,inf,3"), r"1 value\(s\) are missing, NaN or inf.* row 1, column 'b'"),
        (("1,2,3", "1,2,3,4"), "not a table .*Expected 3 fields in line 2, saw 4.*as many values"),
        (("a,b", "1,2,3"), "not a table .*Length of header.*as many values in each row"),
        ((",b,c",), r"the header has no name for column 1.*`index=False`"),
        (("a,b,a",), "the header names more than one column 'a'"),
    ],
)
def test_a_bad_csv_is_named_with_its_fault(
    tmp_path: Path, lines: tuple[str, ...], found: str
) -> None:
    path = _csv(tmp_path / "bad.csv", *lines)
    with pytest.raises(DataError, match=f"bad.csv: {found}"):
        read_table(path)


def test_yes_and_no_are_not_numbers(tmp_path: Path) -> None:
    """pandas reads such a column as booleans, which count as numbers to it."""
    path = tmp_path / "bad.csv"
    pd.DataFrame({"a": VALUES[:, 0], "b": VALUES[:, 1] > 0}).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"12 value\(s\) in column 'b' are not numbers"):
        read_table(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty; expected rows of numbers"),
        (b"\n\n", "empty; expected rows of numbers"),
        (b"a,b\n", "empty, its shape is"),
        (b"a,b\n1,2\n3,4\n", r"2 row\(s\), but at least 10"),
        (b"a;b\n1;2\n", "in column 'a;b' are not numbers, the first is '1;2' in row 1"),
        (b"\xff\xfe\x00\x01" * 30, "not a text file"),
    ],
)
def test_a_csv_that_is_no_table_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"bad.csv: .*{found}"):
        read_table(path)


def test_points_to_evaluate_at_may_be_few(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("a,b\n1,2\n1,2\n")
    assert read_points(path).values.tolist() == [[1, 2], [1, 2]]
    path.write_text("a,b\n1,nan\n")
    with pytest.raises(DataError, match="missing, NaN or infinite, the first in row 1"):
        read_points(path)
    path.write_text("a,b\n")
    with pytest.raises(DataError, match="empty"):
        read_points(path)
