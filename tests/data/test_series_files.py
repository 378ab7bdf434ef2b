"""Tables of series in long form: round trips, what is understood, every kind of fault."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isocline.data import (
    Daily,
    DataError,
    SeriesSet,
    event_series,
    read_series,
    spirals,
    write_series,
)

SUFFIXES = [".csv", ".parquet"]

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name == name.strip() and "\n" not in name and "\r" not in name
)
single = st.floats(allow_nan=False, allow_infinity=False, width=32)


@st.composite
def series_sets(draw: st.DrawFn) -> SeriesSet:
    """Series in which every row observes something, with any values and any names."""
    features = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    subjects = draw(st.lists(names, min_size=1, max_size=4))
    times, values, mask = [], [], []
    for _ in subjects:
        at = draw(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=5, unique=True))
        # 0.0 and -0.0 are one time.
        at = sorted({time + 0.0 for time in at})
        rows = st.lists(single, min_size=len(features), max_size=len(features))
        values.append(torch.tensor([draw(rows) for _ in at]))
        seen = torch.tensor([[draw(st.booleans()) for _ in features] for _ in at])
        seen[:, 0] |= ~seen.any(1)
        mask.append(seen)
        times.append(torch.tensor(at, dtype=torch.float64))
    labels = draw(st.one_of(st.none(), st.lists(st.integers(-9, 9), min_size=4, max_size=4)))
    until = draw(st.booleans())
    return SeriesSet(
        tuple(times),
        tuple(values),
        tuple(mask),
        tuple(subjects),
        tuple(features),
        labels=None if labels is None else torch.tensor(labels[: len(subjects)]),
        until=torch.stack([time[-1] for time in times]) + 0.5 if until else None,
    )


def _assert_same(again: SeriesSet, first: SeriesSet) -> None:
    assert again.subjects == first.subjects
    assert again.features == first.features
    for index in range(len(first)):
        assert torch.equal(again.times[index], first.times[index].double())
        assert torch.equal(again.mask[index], first.mask[index])
        seen = first.mask[index]
        assert torch.equal(again.values[index][seen], first.values[index][seen])
    for part in ("labels", "until"):
        one, other = getattr(again, part), getattr(first, part)
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other.to(one.dtype))


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(series=series_sets())
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, series: SeriesSet
) -> None:
    path = tmp_path_factory.mktemp("series") / f"some{suffix}"
    write_series(series, path)
    again = read_series(path, features=series.features)
    _assert_same(again, series)
    assert again.reading is not None
    assert not again.reading.faults
    assert again.reading.kept == int(series.observed.sum())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_events_are_written_and_read(tmp_path: Path, suffix: str) -> None:
    series = event_series([Daily(level=0.3), Daily(level=4.0)], 4)
    assert 0 in series.lengths.tolist()
    write_series(series, tmp_path / f"events{suffix}")
    again = read_series(tmp_path / f"events{suffix}")
    _assert_same(again, series)
    assert again.batch().features == 0


def test_outcomes_of_an_older_file_do_not_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    series = spirals(3, points=4, beyond=0).series()
    write_series(series, path)
    assert (tmp_path / "a.outcomes.csv").exists()
    write_series(event_series(Daily(), 3).subset([0]), path)
    plain = SeriesSet(series.times, series.values, series.mask, series.subjects, series.features)
    write_series(plain, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv"]
    assert read_series(path).labels is None


def test_half_a_file_is_never_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_text("before")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_series(event_series(Daily(), 1), path)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


def _only(tmp_path: Path, text: str, **others: object) -> SeriesSet:
    path = tmp_path / "a.csv"
    path.write_text(text)
    return read_series(path, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "subject,time,variable,value\na,1,x,2\na,3,y,4\n",
        "RecordID,Time,Parameter,Value\na,1,x,2\na,3,y,4\n",
        "value,comment,variable,minute,id\n2,,x,1,a\n4,late,y,3,a\n",
        '"subject","time","variable","value"\n"a","1","x","2"\n"a","3","y","4"\n',
        "\ufeffsubject , t , Feature , VALUE\r\n a , 3 , y , 4 \r\n\r\na,1,x,2",
        "patient,hours,variable,value\na,01:00,x,2\na,3:00,y,4\n",
    ],
)
def test_columns_may_stand_in_any_order_under_many_names(tmp_path: Path, text: str) -> None:
    series = _only(tmp_path, text)
    assert series.subjects == ("a",)
    assert series.features == ("x", "y")
    assert series.times[0].tolist() == [1, 3]
    assert series.values[0].tolist() == [[2, 0], [0, 4]]
    assert series.mask[0].tolist() == [[True, False], [False, True]]
    assert series.reading is not None
    assert not series.reading.faults


def test_a_subject_may_have_several_records(tmp_path: Path) -> None:
    text = "subject,record,time,variable,value\na,1,0,x,1\na,2,0,x,2\nb,1,0,x,3\na,1,1,x,4\n"
    series = _only(tmp_path, text)
    assert series.subjects == ("a", "a", "b")
    assert series.lengths.tolist() == [2, 1, 1]


def test_a_folder_is_all_its_tables(tmp_path: Path) -> None:
    for name, row in {"b": "s2,0,x,2", "a": "s1,0,y,1"}.items():
        (tmp_path / f"{name}.csv").write_text(f"subject,time,variable,value\n{row}\n")
    (tmp_path / "outcomes.csv").write_text("subject,label\ns2,7\ns1,5\n")
    (tmp_path / "readme.txt").write_text("not read")
    series = read_series(tmp_path)
    # In the order of the outcomes.
    assert series.subjects == ("s2", "s1")
    assert series.features == ("x", "y")
    assert series.labels is not None
    assert series.labels.tolist() == [7, 5]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,1,x", "row with more or fewer fields than the header"),
        ("a,1,x,2,3", "row with more or fewer fields than the header"),
        (",1,x,2", "row without a subject"),
        ("a,,x,2", "time that is not a number"),
        ("a,1e,x,2", "time that is not a number"),
        ("a,nan,x,2", "time that is missing or not finite"),
        ("a,1,,2", "row without a variable"),
        ("a,1,z,2", "unknown variable"),
        ("a,1,x,", "value that is not a number"),
        ("a,1,x,two", "value that is not a number"),
        ("a,1,x,1_000", "value that is not a number"),
        ("a,1,x,inf", "value that is missing or not finite"),
        ('"a,1,x,2', "row with more or fewer fields than the header"),
        ("\x00\x00", "row with more or fewer fields than the header"),
    ],
)
def test_a_damaged_row_is_counted_and_shown(tmp_path: Path, row: str, reason: str) -> None:
    text = f"subject,time,variable,value\na,0,x,1\n{row}\na,2,y,3\n"
    series = _only(tmp_path, text, features=("x", "y"))
    assert series.times[0].tolist() == [0, 2]
    assert series.reading is not None
    assert (series.reading.rows, series.reading.kept) == (3, 2)
    assert {name: fault.count for name, fault in series.reading.faults.items()} == {reason: 1}
    assert series.reading.faults[reason].example.startswith("a.csv, line 3: ")


def test_several_values_at_one_time_become_their_mean(tmp_path: Path) -> None:
    text = "subject,time,variable,value\na,0,x,1\na,0,y,5\na,0,x,2\na,0,x,6\n"
    series = _only(tmp_path, text)
    assert series.values[0].tolist() == [[3, 5]]
    assert series.reading is not None
    [fault] = series.reading.faults.values()
    assert (fault.count, fault.example) == (2, "a.csv, line 4: a, time 0, x = 2")


def test_the_mean_of_large_values_does_not_overflow(tmp_path: Path) -> None:
    text = "subject,time,variable,value\n" + "a,0,x,3e38\n" * 3
    assert _only(tmp_path, text).values[0].item() == pytest.approx(3e38)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("b,", "outcome that is not a number"),
        ("b,yes", "outcome that is not a number"),
        ("b,0.5", "label that is no whole number, or end that is not finite"),
        ("b,nan", "label that is no whole number, or end that is not finite"),
        ("b", "outcome with more or fewer fields than the header"),
        (",1", "outcome without a subject"),
        ("a,0", "another outcome of the same series (the first is kept)"),
    ],
)
def test_a_damaged_outcome_is_noted(tmp_path: Path, row: str, reason: str) -> None:
    (tmp_path / "a.outcomes.csv").write_text(f"subject,label\na,1\n{row}\nc,2\n")
    series = _only(tmp_path, "subject,time,variable,value\na,0,x,1\nb,0,x,2\n")
    assert series.subjects == ("a",)
    assert series.reading is not None
    faults = series.reading.faults
    assert faults[reason].example.startswith(f"a.outcomes.csv, line 3: '{row}")
    assert faults["series without an outcome"].example == "b"
    assert faults["outcome without a series"].example == "c in a.outcomes.csv"
    assert faults["row of a series without an outcome"].count == 1
    assert (series.reading.rows, series.reading.kept) == (2, 1)


HEAD = "subject,time,variable,value\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", r"no series is left of 0 row\(s\); empty file: 1"),
        (HEAD, r"no series is left of 0 row\(s\); expected at least one"),
        (
            HEAD + "a,b,c,d\n",
            r"no series is left of 1 row\(s\); time that is not a number: 1, first",
        ),
        ("a;b;c\n1;2;3\n", "no column for the subject and the time in 'a;b;c'"),
        ("time,variable,value\n", "no column for the subject in"),
        ("subject,variable,value\n", "no column for the time in"),
        ("subject,time,value\n", "no column for the variable in"),
        ("subject,time,variable\n", "no column for the value in"),
        (
            "subject,time,minute,variable,value\n",
            "the columns 'time' and 'minute' both mean the time",
        ),
    ],
)
def test_a_file_that_is_no_table_of_series_is_refused(
    tmp_path: Path, text: str, found: str
) -> None:
    with pytest.raises(DataError, match=f"a.csv: {found}"):
        _only(tmp_path, text)


def test_events_and_measurements_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEAD + "a,0,x,1\n")
    (tmp_path / "b.csv").write_text("subject,time\na,0\n")
    with pytest.raises(DataError, match=r"b.csv: has no columns for variable and value"):
        read_series(tmp_path)
    (tmp_path / "a.csv").rename(tmp_path / "c.csv")
    with pytest.raises(DataError, match=r"c.csv: has measurements, but the files before"):
        read_series(tmp_path)
    with pytest.raises(DataError, match=r"b.csv: has no columns"):
        read_series(tmp_path / "b.csv", features=("x",))


def test_events_at_one_time_stay_two(tmp_path: Path) -> None:
    series = _only(tmp_path, "subject,time\na,1\na,0.5\na,1\n")
    assert series.times[0].tolist() == [0.5, 1, 1]
    assert series.reading is not None
    assert series.reading.kept == 3


def test_paths_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder; expected a table"):
        read_series(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match=r"no .csv and no .parquet file of series"):
        read_series(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match=r"the suffix '.txt' says no format"):
        read_series(tmp_path / "a.txt")
    (tmp_path / "a.csv").write_text(HEAD + "a,0,x,1\n")
    with pytest.raises(DataError, match=r"none.csv: no such file; expected outcomes"):
        read_series(tmp_path / "a.csv", tmp_path / "none.csv")
    (tmp_path / "a.outcomes.csv").write_text("subject,weight\na,1\n")
    with pytest.raises(DataError, match="expected a column `label` or `until`"):
        read_series(tmp_path / "a.csv")


def _named(subject: str) -> SeriesSet:
    return SeriesSet(
        (torch.zeros(1),), (torch.ones(1, 1),), (torch.ones(1, 1).bool(),), (subject,), ("x",)
    )


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: _named(" a"), "the name ' a' would not be read again"),
        (lambda: _named("a\nb"), "the name 'a.nb' would not"),
        (lambda: _named(""), "the name '' would not"),
        (
            lambda: SeriesSet(
                (torch.zeros(1),), (torch.ones(1, 1),), (torch.zeros(1, 1).bool(),), ("a",), ("x",)
            ),
            r"series 0 \(a\) has no row, or one that observes nothing",
        ),
    ],
)
def test_what_the_form_cannot_say_is_refused(
    tmp_path: Path, make: Callable[[], SeriesSet], found: str
) -> None:
    found = found.replace("a.nb", r"a\\nb")
    with pytest.raises(DataError, match=found):
        write_series(make(), tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"expected the suffix .csv or .parquet"):
        write_series(_named("a"), tmp_path / "a.txt")


def test_a_series_of_faults_alone_is_counted(tmp_path: Path) -> None:
    series = _only(tmp_path, f"{HEAD}a,0,x,1\nb,0,x,two\n")
    assert series.subjects == ("a",)
    assert series.reading is not None
    assert series.reading.faults["series without a measurement"].example == "b"


def test_measurements_without_a_sound_row_are_no_events(tmp_path: Path) -> None:
    """With outcomes at hand, they passed for series without an event."""
    (tmp_path / "a.outcomes.csv").write_text("subject,label\na,1\n")
    with pytest.raises(DataError, match=r"a.csv: no series is left of 1 row\(s\); row without a v"):
        _only(tmp_path, f"{HEAD}a,0,,1\n")


def test_a_row_beyond_its_window_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.outcomes.csv").write_text("subject,until\nb,9\na,2\n")
    series = _only(tmp_path, "subject,time\na,1\na,2.5\nb,2.5\na,2\n")
    assert [times.tolist() for times in series.times] == [[2.5], [1, 2]]
    assert series.reading is not None
    fault = series.reading.faults["row beyond the end of its window"]
    assert (fault.count, fault.example) == (1, "a.csv, line 3: a, time 2.5")
