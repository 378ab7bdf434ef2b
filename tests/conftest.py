"""One thread, one seed, the same hypothesis examples on every run, and products thinned."""

import gc
import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from torch.distributions import Distribution

from .pairwise import is_quick

# Glue code runs once a step: to compile it takes half as long without optimisation, in tests' time.
os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")

torch.set_num_threads(1)
settings.register_profile(
    "isocline", deadline=None, derandomize=True, max_examples=25, database=None
)
settings.load_profile("isocline")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What `pairwise` and `in_turn` leave out is slow; before pytest chooses by marks."""
    for item in items:
        marked = item.get_closest_marker("pairwise") or item.get_closest_marker("in_turn")
        if marked and not is_quick(item):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """A full collection then passes over the modules, a million objects that stay anyway."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The generators that exist: `torch.manual_seed` formats a stack for those yet to come."""
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(autouse=True)
def _distributions_check_their_arguments() -> Iterator[None]:
    """Once it has compiled anything, torch leaves them unchecked in the whole process."""
    yield
    Distribution.set_default_validate_args(True)
