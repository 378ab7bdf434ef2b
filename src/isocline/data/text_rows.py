"""Text with one measurement in a line: lines, times and numbers, as every reader takes them."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["clock", "number", "shown", "text_lines"]

CLOCK = re.compile(r"\s*(\d{1,4}):([0-5]\d)\s*", re.ASCII)


def text_lines(path: Path) -> tuple[list[str], str]:
    """The lines of a file, whatever their ends and whatever bytes strayed into them.

    Returns:
        All lines that end, and what stands behind the last of these (``""`` in a whole file).
    """
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    rest = lines.pop()
    return lines, rest


def number(text: str) -> float:
    """A number; unlike Python's own reading, ``1_000`` is none.

    Raises:
        ValueError: If it is no number.
    """
    if "_" in text:
        raise ValueError(text)
    return float(text)


def clock(text: str) -> int | None:
    """Minutes of a time ``HH:MM``, with hours as many as may be; ``None`` if it is none."""
    found = CLOCK.fullmatch(text)
    return 60 * int(found[1]) + int(found[2]) if found else None


def shown(line: str) -> str:
    """The beginning of a line, quoted, for a message."""
    return repr(line[:60])
