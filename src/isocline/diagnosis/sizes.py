"""Bytes in words."""

__all__ = ["in_bytes"]


def in_bytes(count: float) -> str:
    """Three digits and a unit."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
