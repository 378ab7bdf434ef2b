"""Tables: built-in ones, widths, splits, standardisation and its inverse."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal

from isocline.data import (
    DataError,
    Scaling,
    Table,
    builtin_table,
    check_width,
    checked_table,
    split_table,
)
from isocline.errors import InputError


def _table(rows: int = 100, columns: int = 3, seed: int = 0) -> Table:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator)
    offset = 1 + torch.arange(columns)
    return Table(50 * offset + values * offset, tuple("abcdefgh"[:columns]), "numbers")


def _rows(*tables: Table) -> set[tuple[float, ...]]:
    return {tuple(row) for table in tables for row in table.values.tolist()}


@pytest.mark.parametrize(
    ("name", "rows", "columns"), [("wine", 178, 13), ("breast-cancer", 569, 30)]
)
def test_built_in_tables(name: str, rows: int, columns: int) -> None:
    table = builtin_table(name)
    assert (len(table), table.width) == (rows, columns)
    assert table.values.shape == (rows, columns)
    assert table.values.dtype == torch.float32
    assert split_table(table).duplicates == 0
    assert {"wine": "alcohol", "breast-cancer": "mean radius"}[name] == table.columns[0]


def test_an_unknown_built_in_table_is_refused() -> None:
    with pytest.raises(InputError, match=r"given 'diabetes'; expected one of wine, breast-cancer"):
        builtin_table("diabetes")


def test_a_table_of_another_width_is_refused() -> None:
    check_width(_table(), 3)
    with pytest.raises(DataError, match=r"numbers: 3 column\(s\) \('a', 'b', 'c'\), but .* of 4;"):
        check_width(_table(), 4)
    with pytest.raises(DataError, match=r"3 column\(s\).* of 2;"):
        split_table(_table(columns=2)).scaling.apply(_table())


@pytest.mark.parametrize("values", [torch.zeros(12), torch.zeros(12, 4)])
def test_values_and_names_must_agree(values: torch.Tensor) -> None:
    with pytest.raises(DataError, match="came with 3 column names"):
        Table(values, ("a", "b", "c"))


@given(
    rows=st.integers(10, 200),
    seed=st.integers(0, 2**31),
    parts=st.tuples(*(st.floats(0.05, 1) for _ in range(3))),
)
def test_parts_are_disjoint_and_complete(
    rows: int, seed: int, parts: tuple[float, float, float]
) -> None:
    fractions = tuple(part / sum(parts) for part in parts)
    whole = _table(rows)
    try:
        splits = split_table(whole, seed, fractions)  # type: ignore[arg-type]
    except DataError:
        # One row to train on has no deviation; none is refused as well.
        assert fractions[0] * rows < 3
        return
    tables = (splits.train, splits.validation, splits.test)
    for table, fraction in zip(tables, fractions, strict=True):
        assert len(table) >= 1
        assert abs(len(table) - fraction * rows) <= 2
    assert sum(map(len, tables)) == rows
    restored = torch.cat([splits.scaling.restore(table.values) for table in tables])
    expected = whole.values[whole.values[:, 0].argsort()]
    torch.testing.assert_close(restored[restored[:, 0].argsort()], expected, rtol=1e-5, atol=1e-4)


def test_split_is_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    first = split_table(_table(), 5)
    torch.manual_seed(2)
    assert torch.equal(split_table(_table(), 5).test.values, first.test.values)
    assert not torch.equal(split_table(_table(), 6).test.values, first.test.values)
    assert [len(part) for part in (first.train, first.validation, first.test)] == [80, 10, 10]
    assert first.train.columns == first.test.columns == ("a", "b", "c")


def test_training_part_alone_sets_the_scale() -> None:
    splits = split_table(_table())
    train = splits.train.values.double()
    assert float(train.mean(0).abs().max()) < 1e-5
    assert float((train.std(0, correction=0) - 1).abs().max()) < 1e-5
    assert float(splits.test.values.mean(0).abs().max()) > 1e-3
    raw = splits.scaling.restore(train)
    torch.testing.assert_close(raw.mean(0), splits.scaling.mean)
    torch.testing.assert_close(raw.std(0, correction=0), splits.scaling.std)


def test_a_repeated_row_lies_in_one_part_only() -> None:
    """Memorised in training, a copy in the test part would earn any likelihood."""
    unique = _table(40)
    twice = Table(torch.cat([unique.values, unique.values, unique.values[:7]]), unique.columns)
    splits = split_table(twice)
    parts = (splits.train, splits.validation, splits.test)
    assert splits.duplicates == 47
    assert sum(map(len, parts)) == len(_rows(*parts)) == 40
    assert torch.equal(splits.test.values, split_table(unique).test.values)


def test_split_does_not_depend_on_the_order_of_rows() -> None:
    whole = _table()
    shuffled = whole.take(torch.randperm(100))
    assert torch.equal(split_table(shuffled).test.values, split_table(whole).test.values)


def test_too_few_different_rows_are_refused() -> None:
    few = _table(9)
    with pytest.raises(DataError, match=r"numbers: 9 different row\(s\) among 18, but at least 10"):
        split_table(Table(few.values.repeat(2, 1), few.columns, few.name))


def test_nothing_left_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match=r"10 of 10 row\(s\) to validate and 1 to test leave none"):
        split_table(_table(10), fractions=(0.01, 0.98, 0.01))


def test_a_column_constant_in_training_is_named() -> None:
    whole = _table(20)
    values = whole.values.clone()
    values[:, 1] = 0.1
    held_out = split_table(whole).validation.values[0]
    row = (split_table(whole).scaling.standardise(whole.values) - held_out).abs().sum(1).argmin()
    values[row, 1] = 3.0
    with pytest.raises(
        DataError, match=r"numbers: column 'b' has one value in all 16 training row"
    ):
        split_table(Table(values, whole.columns, whole.name))


@pytest.mark.parametrize(
    "fractions", [(0.8, 0.1, 0.2), (0.8, 0.2, 0.0), (1.2, -0.1, -0.1), (math.nan, 0.1, 0.1)]
)
def test_fractions_must_be_positive_parts_of_one(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match=r"`fractions`: given .*; expected three positive numbers"):
        split_table(_table(), fractions=fractions)


def test_log_scale_takes_densities_to_the_original_units() -> None:
    splits = split_table(_table(2000))
    scaling = splits.scaling
    standard = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    original = MultivariateNormal(scaling.mean, torch.diag(scaling.std**2))
    values = splits.test.values.double()
    expected = original.log_prob(scaling.restore(values))
    torch.testing.assert_close(standard.log_prob(values) - scaling.log_scale, expected)


@given(mean=st.floats(-1e6, 1e6), std=st.floats(1e-3, 1e6), dtype=st.sampled_from(["f4", "f8"]))
def test_restoring_undoes_standardising(mean: float, std: float, dtype: str) -> None:
    scaling = Scaling(torch.tensor([mean]).double(), torch.tensor([std]).double())
    values = torch.from_numpy(np.linspace(-5, 5, 11, dtype=dtype)[:, None])
    restored = scaling.standardise(scaling.restore(values))
    assert restored.dtype == values.dtype
    # Single precision cannot tell values apart that are nearer than their distance from zero.
    rounding = 2 * torch.finfo(values.dtype).eps * (10 + abs(mean) / std)
    assert float((restored - values).abs().max()) <= rounding


def test_a_large_mean_costs_no_digits() -> None:
    """In single precision the mean itself is off by up to half a unit here."""
    values = 1e7 + 2 * np.arange(20.0)[:, None]
    splits = split_table(checked_table(values, ("x",), "large"))
    assert abs(float(splits.train.values.double().mean())) < 1e-6
    restored = splits.scaling.restore(splits.train.values)
    assert _rows(Table(restored, ("x",))) <= {(float(value),) for value in values.flatten()}
