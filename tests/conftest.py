"""One thread, one seed, and the same hypothesis examples on every run."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile(
    "isocline", deadline=None, derandomize=True, max_examples=25, database=None
)
settings.load_profile("isocline")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
