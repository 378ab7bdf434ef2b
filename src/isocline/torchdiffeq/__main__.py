"""`python -m isocline.torchdiffeq script.py [args]`: run a script that imports torchdiffeq."""

from __future__ import annotations

import io
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, TracebackType

from .installing import install

_USAGE = """\
usage: python -m isocline.torchdiffeq script.py [args]
       python -m isocline.torchdiffeq -m module [args]

Runs a script or a module, with its arguments, as Python would, where `import torchdiffeq` imports
isocline's drop-in. torchdiffeq need not be installed.
"""


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments name; the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        stream = sys.stdout if arguments else sys.stderr
        stream.write(_USAGE)
        return 0 if arguments else 2
    if arguments[0] == "-m":
        if len(arguments) == 1:
            return _refused("-m needs the name of a module")
        sys.argv = list(arguments[1:])
        return _guarded(lambda: _run_module(arguments[1]))
    if arguments[0].startswith("-"):
        return _refused(f"unknown option {arguments[0]}")
    script = Path(arguments[0])
    if not script.exists():
        return _refused(f"can't open file {str(script)!r}: there is none")
    sys.argv = list(arguments)
    return _guarded(lambda: _run_script(script))


def _refused(reason: str) -> int:
    sys.stderr.write(f"python -m isocline.torchdiffeq: {reason}\n\n{_USAGE}")
    return 2


def _run_script(script: Path) -> None:
    """As `python script.py` does: in the module `__main__`, with its folder first in the path."""
    if not script.is_file() or script.suffix in (".zip", ".pyz"):
        runpy.run_path(str(script), run_name="__main__")
        return
    if not sys.flags.safe_path:
        sys.path[0] = os.fspath(script.resolve().parent)
    with io.open_code(os.fspath(script.resolve())) as file:
        code = compile(file.read(), os.fspath(script), "exec")
    main_module = ModuleType("__main__")
    main_module.__file__ = os.fspath(script)
    vars(main_module)["__builtins__"] = __builtins__
    sys.modules["__main__"] = main_module
    exec(code, vars(main_module))


def _run_module(name: str) -> None:
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _guarded(run: Callable[[], None]) -> int:
    """Run; an exception is shown as Python shows it, without the frames of this file."""
    install()
    try:
        run()
    except SystemExit:
        raise
    except BaseException as error:
        theirs = error.with_traceback(_theirs(error.__traceback__))
        sys.excepthook(type(theirs), theirs, theirs.__traceback__)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _theirs(trace: TracebackType | None) -> TracebackType | None:
    """A traceback from where it leaves this file, and `runpy`, for good."""
    own = (__file__, runpy.__file__, "<frozen runpy>")
    while trace is not None and trace.tb_frame.f_code.co_filename in own:
        trace = trace.tb_next
    return trace


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
