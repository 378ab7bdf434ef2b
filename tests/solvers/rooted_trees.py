"""Rooted trees and the order conditions that they index.

Hairer, Norsett and Wanner, "Solving Ordinary Differential Equations I" (1993), section II.2:
weights b of a Runge-Kutta matrix A have order p if and only if, for every rooted tree t of at most
p nodes, sum_j b_j Phi_j(t) = 1 / gamma(t) (theorem 2.13). A continuous extension of order p
satisfies sum_j b_j(theta) Phi_j(t) = theta**|t| / gamma(t) (section II.6).

A tree is the sorted tuple of the subtrees at its root; the tree of one node is ().
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from math import factorial, prod

import numpy as np
from numpy.typing import NDArray

Number = Fraction | int
Tree = tuple["Tree", ...]
Vector = list[Fraction]


@cache
def trees(nodes: int) -> tuple[Tree, ...]:
    """All rooted trees of that many nodes, each once."""
    if nodes == 1:
        return ((),)
    return tuple(sorted({grown for tree in trees(nodes - 1) for grown in _grow(tree)}))


def trees_up_to(nodes: int) -> list[Tree]:
    return [tree for count in range(1, nodes + 1) for tree in trees(count)]


def _grow(tree: Tree) -> Iterator[Tree]:
    """The trees that one more leaf, at any node, makes of this one."""
    yield tuple(sorted((*tree, ())))
    for i, subtree in enumerate(tree):
        for grown in _grow(subtree):
            yield tuple(sorted((*tree[:i], grown, *tree[i + 1 :])))


@cache
def size(tree: Tree) -> int:
    """Number of nodes, |t|."""
    return 1 + sum(size(subtree) for subtree in tree)


@cache
def density(tree: Tree) -> int:
    """gamma(t) = |t| times the densities of the subtrees."""
    return size(tree) * prod(density(subtree) for subtree in tree)


@cache
def symmetry(tree: Tree) -> int:
    """sigma(t): in how many ways the subtrees can change places without a difference."""
    return prod(factorial(n) * symmetry(u) ** n for u, n in Counter(tree).items())


class ElementaryWeights:
    """Phi_j(t) for every stage j of a strictly lower triangular matrix, in exact fractions."""

    def __init__(self, a: Sequence[Sequence[Number]]) -> None:
        self._a = a
        self._phi: dict[Tree, Vector] = {}

    def phi(self, tree: Tree) -> Vector:
        """Phi_i(t) is the product, over the subtrees u at the root, of sum_j a_ij Phi_j(u)."""
        if tree not in self._phi:
            result = [Fraction(1)] * len(self._a)
            for subtree in tree:
                inner = self.phi(subtree)
                for i, row in enumerate(self._a):
                    result[i] *= dot(row, inner)
            self._phi[tree] = result
        return self._phi[tree]

    def defect(self, b: Sequence[Number], nodes: int) -> Fraction:
        """How far the weights miss the worst of the conditions that trees of that size state."""
        return max(
            abs(dot(b, self.phi(tree)) - Fraction(1, density(tree))) for tree in trees(nodes)
        )

    def dense_defect(self, weights: Sequence[Sequence[Number]], nodes: int) -> Fraction:
        """The same for weights b_j(theta) = sum_m weights[j][m] theta**(m + 1), power by power."""
        worst = Fraction(0)
        powers = max(len(weights[0]), nodes)
        for tree in trees(nodes):
            phi = self.phi(tree)
            for m in range(powers):
                column = [row[m] if m < len(row) else 0 for row in weights]
                target = Fraction(1, density(tree)) if m + 1 == nodes else Fraction(0)
                worst = max(worst, abs(dot(column, phi) - target))
        return worst


class RoundedWeights:
    """The same for a table of decimals, in whole multiples of 2^-1000: as good, and much quicker.

    A sum of products is off by less than 2^-990 times the sizes of rows, which no table here comes
    near to make up for.
    """

    BITS = 1000

    def __init__(self, a: Sequence[Sequence[Number]]) -> None:
        self._a = [[(j, self._scaled(x)) for j, x in enumerate(row) if x] for row in a]
        self._phi: dict[Tree, list[int]] = {}
        self._inner: dict[Tree, list[int]] = {}

    def _scaled(self, x: Number) -> int:
        x = Fraction(x)
        return (x.numerator << self.BITS) // x.denominator

    def _below(self, tree: Tree) -> list[int]:
        """sum_j a_ij Phi_j(t) for each i."""
        if tree not in self._inner:
            phi = self.phi(tree)
            self._inner[tree] = [sum(x * phi[j] for j, x in row) >> self.BITS for row in self._a]
        return self._inner[tree]

    def phi(self, tree: Tree) -> list[int]:
        if tree not in self._phi:
            result = [1 << self.BITS] * len(self._a)
            for subtree in tree:
                below = self._below(subtree)
                result = [(x * y) >> self.BITS for x, y in zip(result, below, strict=True)]
            self._phi[tree] = result
        return self._phi[tree]

    def defect(self, b: Sequence[Number], nodes: int) -> Fraction:
        return self.dense_defect([[0] * (nodes - 1) + [x] for x in b], nodes)

    def dense_defect(self, weights: Sequence[Sequence[Number]], nodes: int) -> Fraction:
        columns = [list(map(self._scaled, column)) for column in zip(*weights, strict=True)]
        columns += [[0] * len(weights)] * (nodes - len(columns))
        worst = 0
        for tree in trees(nodes):
            phi = self.phi(tree)
            for m, column in enumerate(columns):
                target = (1 << 2 * self.BITS) // density(tree) if m + 1 == nodes else 0
                total = sum(x * y for x, y in zip(column, phi, strict=False) if x)
                worst = max(worst, abs(total - target) >> self.BITS)
        return Fraction(worst, 1 << self.BITS)


def dot(left: Sequence[Number], right: Sequence[Fraction]) -> Fraction:
    """Sum of products; a row of a is shorter than the vector, for it ends at the diagonal."""
    return sum((x * y for x, y in zip(left, right, strict=False) if x), Fraction(0))


def float_phi(a: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Phi[tree, j] in floats for all trees up to that order: rounded, but quick."""
    known: dict[Tree, NDArray[np.float64]] = {}
    for tree in trees_up_to(order):
        # Trees come by size, so the subtrees are known.
        known[tree] = np.prod([a @ known[subtree] for subtree in tree], axis=0) * np.ones(len(a))
    return np.stack(list(known.values()))


def float_targets(order: int) -> NDArray[np.float64]:
    """1 / gamma(t) for the same trees, in the same sequence."""
    return np.array([1 / density(tree) for tree in trees_up_to(order)])
