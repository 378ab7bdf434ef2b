"""Seeds made of several numbers, so that what is random follows from where it is used."""

from __future__ import annotations

__all__ = ["fold_seeds"]


def fold_seeds(*numbers: int) -> int:
    """Fold numbers into one seed (FNV-1a, on words), so that nearby ones give unlike streams.

    Noise whose seed is that of the run folded with the iteration needs no generator to be carried
    along: a run that starts again in the middle draws what it would have drawn.
    """
    value = 0xCBF29CE484222325
    for number in numbers:
        value = ((value ^ number) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value & 0x7FFFFFFFFFFFFFFF
