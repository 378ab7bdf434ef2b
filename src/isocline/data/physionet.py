"""PhysioNet/Computing in Cardiology Challenge 2012: 48 hours of intensive care.

Silva, Moody, Scott, Celi, Mark (2012), "Predicting in-hospital mortality of ICU patients",
https://physionet.org/content/challenge-2012, under the Open Data Commons Attribution License.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError
from .long_rows import LongRows, Outcomes, Rules, assemble
from .long_tables import TABLES
from .physionet_text import read_stays
from .reading import Tally
from .series import SeriesSet
from .series_files import read_long

__all__ = ["PHYSIONET_DESCRIPTORS", "PHYSIONET_FEATURES", "read_physionet"]

# Noted once, at admission; -1 where they were not.
PHYSIONET_DESCRIPTORS = ("Age", "Gender", "Height", "ICUType")

# Weight is a descriptor that may be measured again. In the order of the challenge's page.
PHYSIONET_FEATURES = (
    *PHYSIONET_DESCRIPTORS,
    *("Weight", "Albumin", "ALP", "ALT", "AST", "Bilirubin", "BUN", "Cholesterol", "Creatinine"),
    *("DiasABP", "FiO2", "GCS", "Glucose", "HCO3", "HCT", "HR", "K", "Lactate", "Mg", "MAP"),
    *("MechVent", "Na", "NIDiasABP", "NIMAP", "NISysABP", "PaCO2", "PaO2", "pH", "Platelets"),
    *("RespRate", "SaO2", "SysABP", "Temp", "TroponinI", "TroponinT", "Urine", "WBC"),
)

# Hours, and the mark of what was not measured, which is a sound value of none of the variables.
# Some copies hold several ages of one stay, it seems from other stays of the same patient. Their
# number says that the patient came back, hence lived: neither it nor their mean may remain. The
# hospital's records write 200 and more for ages above 89, for privacy; others write 90.
RULES = Rules(span=(0.0, 48.0), missing=-1.0, once=PHYSIONET_DESCRIPTORS, most=(("Age", 90.0),))

# Arrays of the archive: what kinds of numbers they may hold.
ARRAYS = {
    **dict.fromkeys(("record", "minute", "variable"), "iu"),
    "value": "fiu",
    "variable_names": "U",
    **dict.fromkeys(("outcome_record", "in_hospital_death"), "iu"),
}


def read_physionet(path: Path | str, outcomes: Path | str | None = None) -> SeriesSet:
    """Read stays in intensive care: 41 variables over 48 hours, and whether the patient died.

    The files may be

    - the challenge's own: a folder of text files such as ``132539.txt`` (``Time,Parameter,Value``),
      with ``Outcomes-a.txt`` in it or beside it;
    - ``.npz``: arrays ``record``, ``minute``, ``variable`` (an index into ``variable_names``),
      ``value``, and ``outcome_record``, ``in_hospital_death``;
    - ``.csv`` or ``.parquet`` in long form, or a folder of these; see `read_series`.

    Args:
        path: A file, or a folder.
        outcomes: The file of outcomes, if it is not where it is looked for; not for ``.npz``.

    Returns:
        Times in hours from admission, float64; the features are `PHYSIONET_FEATURES` wherever it
        comes from, in original units; labels are deaths in hospital (1), or ``None`` without
        outcomes. -1 is taken for what was not measured; of several values at one time the mean is
        kept, of several ages the least, and ages above 90 are written as 90. What is read but not
        used is counted in `reading`. No value is refused for being unlikely: a pH of 735 stays,
        for `split_series` to clip.

    Raises:
        DataError: If a file is missing or of another format, or no stay is left.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected {_EXPECTED}")
    if path.is_dir():
        path = _inside(path)
    if path.suffix.lower() in TABLES:
        return read_long(path, outcomes, PHYSIONET_FEATURES, hours=True, rules=RULES)
    tally = Tally()
    known: Outcomes | None
    try:
        if path.is_dir():
            where = None if outcomes is None else Path(outcomes)
            rows, known = read_stays(path, where, PHYSIONET_FEATURES, tally)
        elif path.suffix.lower() == ".npz":
            rows, known = _read_npz(path, tally)
        else:
            raise DataError(f"{path}: of no format that is read here; expected {_EXPECTED}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return assemble(rows, PHYSIONET_FEATURES, known, RULES, tally, str(path))


_EXPECTED = "a folder of text files as of the challenge, or one file as .npz, .csv or .parquet"


def _inside(folder: Path) -> Path:
    """The folder, or the one file in it that is meant."""
    if any(folder.glob("[0-9]*.txt")):
        return folder
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".npz", *TABLES))
    named = [file for file in found if "outcomes" not in file.name.lower()]
    if len(named) == 1:
        return named[0]
    given = ", ".join(file.name for file in named[:4]) or "none of these"
    raise DataError(f"{folder}: holds {given}; expected {_EXPECTED}: name the one to read")


def _read_npz(path: Path, tally: Tally) -> tuple[LongRows, Outcomes]:
    arrays = _arrays(path)
    names = [str(name) for name in arrays["variable_names"]]
    column = {name: number for number, name in enumerate(PHYSIONET_FEATURES)}
    records, series = np.unique(arrays["record"], return_inverse=True)
    minute, variable = arrays["minute"], arrays["variable"]
    value = arrays["value"].astype(np.float64)

    def place(row: int) -> str:
        index = int(variable[row])
        name = names[index] if 0 <= index < len(names) else f"variable {index}"
        text = f"minute {minute[row]}, {name} = {value[row]:g}"
        return f"{path.name}, row {row}: record {arrays['record'][row]}, {text}"

    # One place more, for an index that names no variable.
    columns = np.array([*(column.get(name, -1) for name in names), -1])
    known_index = (variable >= 0) & (variable < len(names))
    features = columns[np.where(known_index, variable, len(names))]
    tally.rows += len(value)
    unknown = np.flatnonzero(features < 0)
    if len(unknown):
        tally.add("unknown variable", place(int(unknown[0])), len(unknown))
    keep = np.flatnonzero(features >= 0)
    rows = LongRows(
        [(str(record), "") for record in records],
        series[keep].astype(np.int64),
        minute[keep] / 60.0,
        features[keep].astype(np.int64),
        value[keep],
        lambda row: place(int(keep[row])),
    )
    return rows, _npz_outcomes(arrays, path.name, tally)


def _npz_outcomes(arrays: dict[str, npt.NDArray[Any]], source: str, tally: Tally) -> Outcomes:
    labels: dict[tuple[str, str], int] = {}
    pairs = zip(
        arrays["outcome_record"].tolist(), arrays["in_hospital_death"].tolist(), strict=True
    )
    for row, (record, death) in enumerate(pairs):
        example = f"{source}, outcome {row}: record {record}, {death}"
        if death not in (0, 1):
            tally.add("outcome that is neither 0 nor 1", example, unit="note")
        elif labels.setdefault((str(record), ""), death) != death:
            tally.add(
                "another outcome of the same record (the first is kept)", example, unit="note"
            )
    return Outcomes(labels, None, source)


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        # Never unpickle: a pickle runs whatever code its author wrote into it.
        # Opened here, since NumPy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ARRAYS if name in archive}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise DataError(
            f"{path}: not a sound .npz file ({error}); make or copy it again"
        ) from error
    for name, kinds in ARRAYS.items():
        if name not in arrays:
            expected = ", ".join(ARRAYS)
            raise DataError(f"{path}: has no array {name!r}; expected {expected}")
        array = arrays[name]
        if array.ndim != 1 or array.dtype.kind not in kinds:
            raise DataError(
                f"{path}: array {name!r} is {array.dtype} of shape {array.shape}; expected one "
                f"axis of a type of kind {' or '.join(kinds)}"
            )
    together = (("record", "minute", "variable", "value"), ("outcome_record", "in_hospital_death"))
    for group in together:
        lengths = {name: len(arrays[name]) for name in group}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{path}: arrays of different lengths, {lengths}; expected one length")
    return arrays
