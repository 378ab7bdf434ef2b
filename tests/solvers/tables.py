"""The tables under test, and what tests of them share."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from isocline.solvers.tableau import Matrix, Number, Tableau
from isocline.solvers.tableaus import TABLEAUS
from isocline.solvers.tableaus.rkc import rkc2

from .rooted_trees import ElementaryWeights, RoundedWeights

TABLES = [*TABLEAUS.values(), *map(rkc2, (2, 3, 10))]


def _label(table: Tableau) -> str:
    return f"{table.name}{table.stages - 1}" if table.name == "RKC" else table.name


EVERY = pytest.mark.parametrize("table", TABLES, ids=_label)
ADAPTIVE = pytest.mark.parametrize(
    "table", [table for table in TABLES if table.adaptive], ids=_label
)

# A method of order p misses some condition of order p + 1 by far more than its decimals leave open:
# by 4.0e-7 at the least (Vern8).
CLEARLY = Fraction(1, 10**7)


def weights_of(table: Tableau, a: Sequence[Sequence[Number]]) -> ElementaryWeights | RoundedWeights:
    """Exact where the coefficients are."""
    return ElementaryWeights(a) if table.digits is None else RoundedWeights(a)


def dense(rows: Matrix, width: int = 0) -> NDArray[np.float64]:
    """A matrix as floats, its rows filled with zeros up to that width."""
    return np.array([[*map(float, row), *[0.0] * (width - len(row))] for row in rows])
