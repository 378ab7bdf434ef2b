"""Tolerances as text: a range of powers of ten, or a list."""

from __future__ import annotations

import math

from ..errors import ConfigError

__all__ = ["parse_tolerances"]


def parse_tolerances(text: str) -> list[float]:
    """Read ``1e0..1e-5`` (every power of ten, both ends included) or ``1e-1,1e-2``.

    Returns:
        The tolerances from the loosest to the tightest, each once.

    Raises:
        ConfigError: If the text is neither, or a tolerance is not positive and finite.
    """
    ends = text.split("..")
    if len(ends) == 2:
        first, last = sorted((_positive(end, text) for end in ends), reverse=True)
        decades = round(math.log10(first / last))
        # Through text, for 10 ** -5 * 1e0 is not always the float that 1e-05 is.
        values = [float(f"{first * 10.0**-k:.12g}") for k in range(decades + 1)]
        values = [value for value in values if value >= last * (1 - 1e-9)]
    else:
        values = [_positive(part, text) for part in text.split(",")]
    return sorted(set(values), reverse=True)


def _positive(part: str, text: str) -> float:
    try:
        value = float(part)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigError(
            f"--tolerances {text}: {part.strip()!r} is no positive number; give a range such as "
            "1e0..1e-5 or a list such as 1e-1,1e-2"
        )
    return value
