"""One thread, one seed, and the same hypothesis examples on every run."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from torch.distributions import Distribution

torch.set_num_threads(1)
settings.register_profile(
    "isocline", deadline=None, derandomize=True, max_examples=25, database=None
)
settings.load_profile("isocline")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _distributions_check_their_arguments() -> Iterator[None]:
    """Once it has compiled anything, torch leaves them unchecked in the whole process."""
    yield
    Distribution.set_default_validate_args(True)
