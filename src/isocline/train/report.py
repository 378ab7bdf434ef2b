"""The report of a run, in Markdown: results and settings, and later the evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .config import RunConfig
from .files import write_text
from .rundir import RunDirectory

__all__ = ["Mean", "markdown_table", "write_evaluation", "write_report"]

_EVALUATION = "## Evaluation"


@dataclass(frozen=True)
class Mean:
    """A mean over samples, and its standard error (NaN for a single one), in nats.

    Attributes:
        value: The mean.
        error: Its standard error.
        digits: How many decimals people are shown.
    """

    value: float
    error: float
    digits: int = 4

    def __str__(self) -> str:
        numbers = [self.value] if math.isnan(self.error) else [self.value, self.error]
        return " ± ".join(f"{number:.{self.digits}f}" for number in numbers) + " nats"


def write_report(
    run: RunDirectory,
    config: RunConfig,
    results: Mapping[str, str],
    pictures: Mapping[str, str],
    tables: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Write ``report.md``; the evaluation of an older report goes, for the weights have changed.

    Args:
        run: The run's folder.
        config: Its settings.
        results: Names and values of the table at the top.
        pictures: Captions, and names of the pictures' files in the folder.
        tables: Headings, and names and values of further tables; empty ones are left out.
    """
    lines = [f"# {config.title}", "", markdown_table(["", "result"], results.items())]
    for caption, name in pictures.items():
        lines += ["", f"![{caption}]({name})"]
    for heading, values in (tables or {}).items():
        if values:
            lines += ["", f"## {heading}", "", markdown_table(["", ""], values.items())]
    settings = config.to_dict()
    given = [(f"`{name}`", f"`{value}`") for name, value in settings.items() if value is not None]
    lines += ["", "## Settings", "", markdown_table(["setting", "value"], given), ""]
    write_text(run.report_file, "\n".join(lines))


def write_evaluation(run: RunDirectory, text: str) -> None:
    """Put an evaluation at the end of ``report.md``, in the place of an older one."""
    report = run.report_file
    old = report.read_text(encoding="utf-8") if report.is_file() else ""
    kept = old.split(_EVALUATION)[0].rstrip()
    write_text(report, f"{kept}\n\n{_EVALUATION}\n\n{text.strip()}\n".lstrip())


def markdown_table(header: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Format rows of text as a table."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for row in rows:
        # A bar within a cell would end it.
        cells = (str(cell).replace("|", "\\|") for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
