"""Files of a run, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..atomic import atomic_path

__all__ = ["write_json", "write_text"]


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")
