"""The page on gradients: a head, and a part for each of the benchmarks, which write their own."""

from __future__ import annotations

import platform
import re
from importlib.metadata import version
from pathlib import Path

import torch

import isocline as ic

__all__ = ["PAGE", "adjoints", "versions", "write_part"]

PAGE = Path("docs/results/gradients.md")

PARTS = ("memory", "time", "mlp1", "mlp128", "wide", "conv", "held")
"""In their order on the page; each is written by itself, so that it can be measured again alone."""

HEAD = """# What gradients cost

Memory and time of a solve and its backward pass, by each adjoint and by other libraries. Which
adjoint to take for a problem of your own, `isocline.check_gradient` says
([Gradients](../gradients.md)).
Made by `make bench-gradients`.
"""


def adjoints() -> dict[str, ic.Adjoint]:
    """The adjoints compared, by name; those that this version has not are left out."""
    found: dict[str, ic.Adjoint] = {
        "Direct": ic.Direct(),
        "Checkpointed": ic.Checkpointed(),
        "Checkpointed, no graphs": ic.Checkpointed(graph_budget=0),
        "Checkpointed, 64 slots": ic.Checkpointed(slots=64),
        "Checkpointed, 8 slots": ic.Checkpointed(slots=8),
        "Backsolve": ic.Backsolve(),
    }
    for name in ("Interpolated", "StepBack", "Forward"):
        if hasattr(ic, name):
            found[name] = getattr(ic, name)()
    return found


def write_part(page: Path, name: str, text: str) -> None:
    """Put a part into the page, in place of the one of that name; the others stay."""
    parts = dict.fromkeys(PARTS, "")
    if page.exists():
        found = re.findall(r"<!-- (\w+) -->\n(.*?)\n<!-- end -->", page.read_text(), re.DOTALL)
        parts |= dict(found)
    by = f"isocline {ic.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    parts[name] = text.replace("@versions", by)
    bodies = [f"<!-- {part} -->\n{body}\n<!-- end -->\n" for part, body in parts.items() if body]
    page.write_text("\n".join([HEAD, *bodies]))


def versions(*names: str) -> str:
    """Names and versions of libraries."""
    return ", ".join(f"{name} {version(name)}" for name in names)
