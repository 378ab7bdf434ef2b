"""The error of data that cannot be read."""

from __future__ import annotations

from ..errors import IsoclineError

__all__ = ["DataError"]


class DataError(IsoclineError, ValueError):
    """A data set is missing, damaged or of the wrong kind.

    The message names the file, says what was found and what was expected, and what to do.
    """
