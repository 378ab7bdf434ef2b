"""A small trained run, shared by the tests that read one."""

import shutil
from pathlib import Path

import pytest

from isocline.train import OdenetConfig
from isocline.train.odenet.run import train_odenet


def tiny(out: Path, **settings: object) -> OdenetConfig:
    """Settings of a run of about two seconds."""
    values: dict[str, object] = {
        "out": out,
        "epochs": 2,
        "limit_train": 128,
        "batch_size": 32,
        "channels": 8,
        "tol": 1e-2,
        "threads": 1,
        "progress": False,
        **settings,
    }
    return OdenetConfig(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "trained"
    train_odenet(tiny(out))
    return out


@pytest.fixture
def run_copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed at will."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
