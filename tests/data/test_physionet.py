"""The PhysioNet challenge of 2012 in a miniature of each layout, sound and damaged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from isocline.data import (
    PHYSIONET_DESCRIPTORS,
    PHYSIONET_FEATURES,
    DataError,
    SeriesSet,
    read_physionet,
    write_series,
)

HEADER = "Time,Parameter,Value"
MISSING = "not measured (marked by -1)"
TWICE = "another value of the same feature at the same time (the mean is kept)"
NO_ID = "RecordID that is missing or not the name of its file (the name counts)"

# Two stays, by record: minute, variable, value.
STAYS = {
    132539: [
        (0, "Age", 54.0),
        (0, "Gender", 0.0),
        (0, "Height", -1.0),
        (0, "Weight", -1.0),
        (7, "GCS", 15.0),
        (7, "HR", 73.0),
        (67, "HR", 77.0),
        (67, "HR", 78.0),
        (2880, "Temp", -17.8),
    ],
    132540: [(0, "Age", 76.0), (0, "Height", 175.3), (42, "pH", 735.0), (42, "HR", 88.0)],
}
DEATHS = {132539: 0, 132540: 1}


def _npz(path: Path, **changes: object) -> Path:
    names = sorted({name for rows in STAYS.values() for _, name, _ in rows})
    flat = [(record, *row) for record, rows in STAYS.items() for row in rows]
    arrays: dict[str, object] = {
        "record": np.array([row[0] for row in flat], dtype=np.int32),
        "minute": np.array([row[1] for row in flat], dtype=np.int16),
        "variable": np.array([names.index(row[2]) for row in flat], dtype=np.int8),
        "value": np.array([row[3] for row in flat], dtype=np.float32),
        "variable_names": np.array(names),
        "outcome_record": np.array(list(DEATHS), dtype=np.int32),
        "in_hospital_death": np.array(list(DEATHS.values()), dtype=np.int8),
    }
    arrays |= changes
    kept = {name: array for name, array in arrays.items() if array is not None}
    np.savez_compressed(path, **kept)  # type: ignore[arg-type]
    return path


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(_npz(path)) as archive:
        return dict(archive)


def _lines(record: int) -> list[str]:
    rows = [f"{m // 60:02d}:{m % 60:02d},{name},{value:g}" for m, name, value in STAYS[record]]
    return [HEADER, f"00:00,RecordID,{record}", *rows]


def _folder(path: Path, outcomes: Path | None = None) -> Path:
    folder = path / "set-a"
    folder.mkdir()
    for record in STAYS:
        (folder / f"{record}.txt").write_text("\n".join(_lines(record)) + "\n")
    lines = ["RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"]
    lines += [f"{record},6,1,5,-1,{death}" for record, death in DEATHS.items()]
    (outcomes or path / "Outcomes-a.txt").write_text("\n".join(lines) + "\n")
    return folder


def _table(path: Path, time: Callable[[int], str] = str, name: str = "minute") -> Path:
    lines = [f"RecordID,{name},variable,value"]
    for record, rows in STAYS.items():
        lines += [
            f"{record},{time(minute)},{variable},{value:g}" for minute, variable, value in rows
        ]
    path.write_text("\n".join(lines) + "\n")
    deaths = [f"{record},{death}" for record, death in DEATHS.items()]
    path.with_suffix(".outcomes.csv").write_text("\n".join(["RecordID,label", *deaths]) + "\n")
    return path


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "npz": lambda path: _npz(path / "set-a.npz"),
    "folder of npz": lambda path: _npz(path / "set-a.npz").parent,
    "text": _folder,
    "outcomes within": lambda path: _folder(path, path / "set-a" / "Outcomes-a.txt"),
    "minutes": lambda path: _table(path / "a.csv"),
    "hours": lambda path: _table(path / "a.csv", lambda m: repr(m / 60), "hour"),
    "clock": lambda path: _table(path / "a.csv", lambda m: f"{m // 60}:{m % 60:02d}", "Time"),
}


def _value(series: SeriesSet, index: int, hours: float, feature: str) -> float:
    row = int((series.times[index] - hours).abs().argmin())
    assert float(series.times[index][row]) == pytest.approx(hours)
    column = series.features.index(feature)
    assert bool(series.mask[index][row, column])
    return float(series.values[index][row, column])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_stays(tmp_path: Path, layout: str) -> None:
    series = read_physionet(LAYOUTS[layout](tmp_path))
    assert series.subjects == ("132539", "132540")
    assert series.features == PHYSIONET_FEATURES
    assert series.labels is not None
    assert series.labels.tolist() == [0, 1]
    assert series.times[0].tolist() == [0, 7 / 60, 67 / 60, 48]
    assert series.times[1].tolist() == [0, 0.7]
    assert int(series.observed.sum()) == 10
    assert _value(series, 0, 67 / 60, "HR") == 77.5
    assert _value(series, 0, 48.0, "Temp") == pytest.approx(-17.8)
    assert _value(series, 1, 0.7, "pH") == 735
    assert series.reading is not None
    assert (series.reading.rows, series.reading.kept) == (13, 10)
    faults = series.reading.faults
    assert {reason: fault.count for reason, fault in faults.items()} == {MISSING: 2, TWICE: 1}
    assert "132539" in faults[MISSING].example
    assert "-1" in faults[MISSING].example


def test_there_are_41_variables() -> None:
    assert len(set(PHYSIONET_FEATURES)) == len(PHYSIONET_FEATURES) == 41
    assert set(PHYSIONET_DESCRIPTORS) < set(PHYSIONET_FEATURES)


def test_stays_can_be_written_and_read(tmp_path: Path) -> None:
    first = read_physionet(_folder(tmp_path))
    write_series(first, tmp_path / "out.csv")
    again = read_physionet(tmp_path / "out.csv")
    assert torch.equal(again.batch().values, first.batch().values)
    assert torch.equal(again.batch().mask, first.batch().mask)
    assert torch.equal(again.batch().times, first.batch().times)
    assert again.subjects == first.subjects


def test_no_outcomes_at_all_give_no_labels(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (tmp_path / "Outcomes-a.txt").rename(tmp_path / "Outcomes-b.txt")
    assert read_physionet(folder).labels is None
    named = read_physionet(folder, tmp_path / "Outcomes-b.txt").labels
    assert named is not None
    assert named.tolist() == [0, 1]


def test_two_files_of_outcomes_are_one_too_many(tmp_path: Path) -> None:
    folder = _folder(tmp_path).rename(tmp_path / "stays")
    (tmp_path / "Outcomes-b.txt").write_bytes((tmp_path / "Outcomes-a.txt").read_bytes())
    with pytest.raises(DataError, match=r"more than one file of outcomes .*say which"):
        read_physionet(folder)


def test_stays_and_outcomes_without_each_other_are_counted(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "132541.txt").write_text(
        "\n".join([HEADER, "00:00,RecordID,132541", "01:00,HR,70\n"])
    )
    with (tmp_path / "Outcomes-a.txt").open("a") as file:
        file.write("132999,1,1,1,1,1\n")
    series = read_physionet(folder)
    assert series.subjects == ("132539", "132540")
    assert series.reading is not None
    faults = series.reading.faults
    assert faults["outcome without a series"].example == "132999 in Outcomes-a.txt"
    assert faults["series without an outcome"].example == "132541"
    assert faults["row of a series without an outcome"].count == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1:xx,HR,70", "time that is not HH:MM"),
        ("07:61,HR,70", "time that is not HH:MM"),
        (",HR,70", "time that is not HH:MM"),
        ("-1:00,HR,70", "time that is not HH:MM"),
        ("48:01,HR,70", "time outside 0 to 48"),
        ("99:00,HR,70", "time outside 0 to 48"),
        ("07:00,Pulse,70", "unknown variable"),
        ("07:00,,70", "unknown variable"),
        ("07:00,HR,7o", "value that is not a number"),
        ("07:00,HR,", "value that is not a number"),
        ("07:00,HR,7_0", "value that is not a number"),
        ("07:00,HR,nan", "value that is missing or not finite"),
        ("07:00,HR,-inf", "value that is missing or not finite"),
        ("07:00,HR,1e39", "value that is missing or not finite"),
        ("07:00,HR", "line that has not three fields"),
        ("07:00,HR,70,71", "line that has not three fields"),
        ("\x00\x01\ufffd", "line that has not three fields"),
        ("07:00,HR,-1", MISSING),
    ],
)
def test_a_damaged_line_is_counted_and_shown(tmp_path: Path, line: str, reason: str) -> None:
    folder = _folder(tmp_path)
    lines = _lines(132540)
    lines.insert(4, line)
    (folder / "132540.txt").write_text("\n".join(lines) + "\n")
    reading = read_physionet(folder).reading
    assert reading is not None
    assert (reading.rows, reading.kept) == (14, 10)
    counts = {name: fault.count for name, fault in reading.faults.items()}
    assert counts.pop(reason) == (3 if reason == MISSING else 1)
    assert set(counts) <= {MISSING, TWICE}
    if reason != MISSING:
        assert "132540.txt, line 5: " in reading.faults[reason].example


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", {"series without a measurement": 1, NO_ID: 1}),
        (b"\n \r\n", {"series without a measurement": 1, NO_ID: 1}),
        (b"Time,Parameter,Value\n", {"series without a measurement": 1, NO_ID: 1}),
        (
            b"Time,Parameter,Value\n00:00,RecordID,132540\n00:00,HR,8",
            {
                "series without a measurement": 1,
                "line without an end, which may have been cut off": 1,
            },
        ),
        (b"\x89PNG\xff\xfe\x00" * 9, {"line without an end, which may have been cut off": 1}),
    ],
)
def test_a_file_with_nothing_in_it_is_counted(
    tmp_path: Path, content: bytes, found: dict[str, int]
) -> None:
    folder = _folder(tmp_path)
    (folder / "132540.txt").write_bytes(content)
    series = read_physionet(folder)
    assert series.subjects == ("132539",)
    assert series.reading is not None
    for reason, count in found.items():
        assert series.reading.faults[reason].count == count
        assert "132540" in series.reading.faults[reason].example


@pytest.mark.parametrize(
    "disguise",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", "\n\n") + "  \n",
        lambda text: "\ufeff" + text,
        lambda text: text.replace(",", " , "),
        lambda text: text.replace(HEADER + "\n", ""),
    ],
    ids=["windows", "old mac", "blank lines", "byte order mark", "spaces", "no header"],
)
def test_what_does_not_matter_does_not_count(
    tmp_path: Path, disguise: Callable[[str], str]
) -> None:
    folder = _folder(tmp_path)
    expected = read_physionet(folder)
    for file in [*folder.iterdir(), tmp_path / "Outcomes-a.txt"]:
        file.write_bytes(disguise(file.read_text()).encode())
    series = read_physionet(folder)
    assert series.reading is not None
    assert set(series.reading.faults) == {MISSING, TWICE}
    assert torch.equal(series.batch().values, expected.batch().values)
    assert torch.equal(series.batch().times, expected.batch().times)


def test_a_record_that_is_not_the_file_s_is_noted(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "132540.txt").write_text("\n".join(_lines(132539)) + "\n")
    series = read_physionet(folder)
    assert series.subjects == ("132539", "132540")
    assert series.reading is not None
    assert series.reading.faults[NO_ID].example == "132540.txt: 132539"


@pytest.mark.parametrize("death", ["", "2", "-1", "yes", "1,1"])
def test_an_outcome_that_says_nothing_is_noted(tmp_path: Path, death: str) -> None:
    folder = _folder(tmp_path)
    path = tmp_path / "Outcomes-a.txt"
    path.write_text(path.read_text().replace("5,-1,1", f"5,-1,{death}"))
    series = read_physionet(folder)
    assert series.subjects == ("132539",)
    assert series.reading is not None
    fault = series.reading.faults["outcome that is neither 0 nor 1"]
    assert fault.example.startswith("Outcomes-a.txt, line 3: '132540,6,1,5,-1,")


def test_the_first_of_two_outcomes_counts(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    with (tmp_path / "Outcomes-a.txt").open("a") as file:
        file.write("132540,6,1,5,-1,0\n132540,6,1,5,-1,1\n")
    series = read_physionet(folder)
    assert series.labels is not None
    assert series.labels.tolist() == [0, 1]
    assert series.reading is not None
    assert (
        series.reading.faults["another outcome of the same record (the first is kept)"].count == 1
    )


@pytest.mark.parametrize(
    ("array", "value", "reason"),
    [
        ("minute", 2881, "time outside 0 to 48"),
        ("minute", -1, "time outside 0 to 48"),
        ("variable", 99, "unknown variable"),
        ("variable", -2, "unknown variable"),
        ("value", np.nan, "value that is missing or not finite"),
        ("value", np.inf, "value that is missing or not finite"),
    ],
)
def test_a_damaged_entry_of_an_archive_is_counted(
    tmp_path: Path, array: str, value: float, reason: str
) -> None:
    changed = _arrays(tmp_path / "a.npz")[array]
    changed[10] = value
    series = read_physionet(_npz(tmp_path / "a.npz", **{array: changed}))
    assert series.reading is not None
    fault = series.reading.faults[reason]
    assert fault.count == 1
    assert fault.example.startswith("a.npz, row 10: record 132540, minute ")
    assert series.reading.kept == 9


def test_how_many_ages_a_stay_has_does_not_show(tmp_path: Path) -> None:
    """In one copy of the set several ages meant a patient who came back, and so one who lived."""
    one = read_physionet(_npz(tmp_path / "a.npz"))
    arrays = _arrays(tmp_path / "a.npz")
    age = list(arrays["variable_names"]).index("Age")
    more = {"record": 132540, "minute": 0, "variable": age, "value": 201.0}
    twice = {
        name: np.append(arrays[name], np.array([value], dtype=arrays[name].dtype))
        for name, value in more.items()
    }
    several = read_physionet(_npz(tmp_path / "b.npz", **twice))
    for mine, theirs in zip(one.values, several.values, strict=True):
        assert mine.equal(theirs)
    assert several.reading is not None
    reason = "another value of what is noted once (the least is kept)"
    assert several.reading.faults[reason].count == 1


def test_an_age_above_90_is_written_as_90(tmp_path: Path) -> None:
    values = _arrays(tmp_path / "a.npz")["value"]
    values[0] = 200.0
    series = read_physionet(_npz(tmp_path / "a.npz", value=values))
    assert _value(series, 0, 0.0, "Age") == 90


def test_names_of_an_archive_may_be_unknown(tmp_path: Path) -> None:
    names = _arrays(tmp_path / "a.npz")["variable_names"]
    names[list(names).index("HR")] = "Pu"
    series = read_physionet(_npz(tmp_path / "a.npz", variable_names=names))
    assert series.reading is not None
    assert series.reading.faults["unknown variable"].count == 4


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"minute": None}, "has no array 'minute'"),
        ({"minute": np.zeros(13)}, r"array 'minute' is float64 of shape \(13,\)"),
        ({"value": np.zeros((13, 1))}, r"array 'value' is float64 of shape \(13, 1\)"),
        ({"variable_names": np.arange(3)}, "array 'variable_names' is int64"),
        ({"value": np.zeros(12)}, "arrays of different lengths"),
        ({"outcome_record": np.zeros(1, int)}, "arrays of different lengths"),
        (
            {"value": np.full(13, np.nan)},
            r"no series is left of 13 row\(s\); value that is missing",
        ),
        ({"value": np.array([None] * 13)}, "not a sound .npz file"),
    ],
)
def test_an_archive_of_another_kind_is_refused(
    tmp_path: Path, changes: dict[str, object], found: str
) -> None:
    with pytest.raises(DataError, match=f"a.npz: {found}"):
        read_physionet(_npz(tmp_path / "a.npz", **changes))


@pytest.mark.parametrize("size", [0, 20, 700])
def test_an_archive_that_was_cut_off_is_refused(tmp_path: Path, size: int) -> None:
    path = _npz(tmp_path / "a.npz")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"a.npz: not a sound .npz file"):
        read_physionet(path)


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder; expected a folder of text"):
        read_physionet(tmp_path / "nothing")
    (tmp_path / "a.doc").touch()
    with pytest.raises(DataError, match=r"a.doc: of no format that is read here"):
        read_physionet(tmp_path / "a.doc")
    with pytest.raises(DataError, match="holds none of these; expected a folder"):
        read_physionet(tmp_path)
    folder = _folder(tmp_path)
    (tmp_path / "Outcomes-a.txt").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="first line is 'a,b'; expected a header with RecordID"):
        read_physionet(folder)
