"""The mark `pairwise`: of a product of parametrisations, the quick suite runs a share.

Let the longest parametrisation be the methods, say, and the others be options. Of each method the
quick suite runs as many cases as the longest option has values, in which each of its options takes
every value: every method meets every value of every option. The cases of the next method pair the
options with one another differently, so that many methods meet all pairs of those too. The rest of
the product is marked slow.
"""

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


def is_quick(item: pytest.Item) -> bool:
    """Whether the quick suite runs this case of a test with at least three parametrisations."""
    axes: list[tuple[int, int]] = []
    for mark in item.iter_markers("parametrize"):
        names, values = mark.args
        name = names.split(",")[0].strip() if isinstance(names, str) else names[0]
        axes.append((len(values), item.callspec.indices[name]))  # type: ignore[attr-defined]
    assert len(axes) >= 3, f"{item.nodeid}: two parametrisations have no pairs to leave out"
    axes.sort(key=lambda axis: -axis[0])
    (_, main), *options = axes
    return chosen(main, [size for size, _ in options], [value for _, value in options])
