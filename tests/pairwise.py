"""The marks `pairwise` and `in_turn`: of a product of parametrisations, a share runs at once.

Let the longest parametrisation be the methods, say, and the others be options. Of each method the
quick suite runs as many cases as the longest option has values, in which each of its options takes
every value: every method meets every value of every option. The cases of the next method pair the
options with one another differently, so that many methods meet all pairs of those too.

With one option there are no pairs to leave out. `in_turn` is for what methods owe to code that they
share: those of one kind (`kind_of`) take the values in turn, so that every method has its turn and
every kind meets every value. The rest is marked slow in either case.
"""

from collections.abc import Sequence
from typing import Any

import pytest

from .known import kind_of


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


def has_its_turn(kinds: Sequence[Any], main: int, size: int, value: int) -> bool:
    """Whether the method of this index runs this value of the option at once, given all kinds."""
    kin = [place for place, kind in enumerate(kinds) if kind == kinds[main]]
    turns = min(len(kin), size)  # a kind of fewer methods than values has several at a turn
    return value % turns == kin.index(main) % turns


def is_quick(item: Any) -> bool:
    """Whether the quick suite runs this case of a test that has one of the marks."""
    axes = [place_in(mark, item.callspec.params) for mark in item.iter_markers("parametrize")]
    axes.sort(key=lambda axis: -len(axis[0]))
    (methods, main), *options = axes
    sizes, values = [len(rows) for rows, _ in options], [place for _, place in options]
    if item.get_closest_marker("in_turn"):
        ((size,), (value,)) = sizes, values
        return has_its_turn([kind_of(method) for (method,) in methods], main, size, value)
    assert len(options) >= 2, f"{item.nodeid}: two parametrisations have no pairs to leave out"
    return chosen(main, sizes, values)


def place_in(mark: pytest.Mark, params: dict[str, Any]) -> tuple[list[tuple[Any, ...]], int]:
    """The values of a parametrisation, and which of them a case has."""
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
    return rows, place
