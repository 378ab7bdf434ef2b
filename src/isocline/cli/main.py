"""Entry of the command line: runs a command, and turns the user's errors into one clear line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from ..errors import IsoclineError

__all__ = ["main"]

# Packages of the extra `train`, by the names they are imported under.
_EXTRA = frozenset(
    {"cycler", "lightning", "matplotlib", "pandas", "rich", "sklearn", "tensorboard", "tyro"}
)
_USAGE_ERROR = 2
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``isocline`` with the arguments `argv`, by default those of the process.

    Returns:
        The exit status: 0, 2 for an error that the user can mend, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print(f"isocline {_version()}")
        return 0
    try:
        from .commands import run

        run(arguments)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in _EXTRA or _wants_traceback():
            raise
        return _fail(f"{missing} is not installed; run: pip install 'isocline[train]'")
    except (IsoclineError, ValueError, OSError) as error:
        if _wants_traceback():
            raise
        return _fail(_describe(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _describe(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, IsoclineError):
        return text
    # Not one of ours, so its text may say little: name its kind, and the way to the whole story.
    return f"{type(error).__name__}: {text} (ISOCLINE_TRACEBACK=1 shows where)"


def _fail(text: str) -> int:
    # Plain escape codes, for rich itself may be what is missing.
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    red, plain = ("\033[31m", "\033[0m") if colour else ("", "")
    print(f"{red}error:{plain} {text}", file=sys.stderr)
    return _USAGE_ERROR


def _wants_traceback() -> bool:
    return bool(os.environ.get("ISOCLINE_TRACEBACK"))


def _version() -> str:
    try:
        return version("isocline")
    except PackageNotFoundError:
        return "(not installed)"
