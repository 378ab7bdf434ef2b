"""The mark `pairwise`: of a product of parametrisations, the quick suite runs a share.

Let the longest parametrisation be the methods, say, and the others be options. Of each method the
quick suite runs as many cases as the longest option has values, in which each of its options takes
every value: every method meets every value of every option. The cases of the next method pair the
options with one another differently, so that many methods meet all pairs of those too. The rest of
the product is marked slow.
"""

from typing import Any

import pytest


def chosen(main: int, sizes: list[int], values: list[int]) -> bool:
    """Whether the method of this index runs these values of the options at once."""
    shifts, carried = [0], main
    for size in sizes[1:]:
        carried, shift = divmod(carried, size)
        shifts.append(shift)
    places = list(zip(sizes, shifts, values, strict=True))
    return any(
        all(value == (row + shift) % size for size, shift, value in places)
        for row in range(max(sizes))
    )


def is_quick(item: Any) -> bool:
    """Whether the quick suite runs this case of a test with at least three parametrisations."""
    axes = [place_in(mark, item.callspec.params) for mark in item.iter_markers("parametrize")]
    assert len(axes) >= 3, f"{item.nodeid}: two parametrisations have no pairs to leave out"
    axes.sort(key=lambda axis: -axis[0])
    (_, main), *options = axes
    return chosen(main, [size for size, _ in options], [value for _, value in options])


def place_in(mark: pytest.Mark, params: dict[str, Any]) -> tuple[int, int]:
    """The number of values of a parametrisation, and which of them a case has."""
    names, given = mark.args
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",")]
    rows = [
        row.values if hasattr(row, "marks") else tuple(row) if len(names) > 1 else (row,)
        for row in given
    ]
    (place,) = (
        place
        for place, row in enumerate(rows)
        if all(params[name] is value for name, value in zip(names, row, strict=True))
    )
    return len(rows), place
