"""Two processes over gloo: data parallel and sharded models have the gradients of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .distributed_worker import ADJOINTS, PROCESSES, WAYS

SHARDED_FIELDS = ("field_sharded", "part_of_field_sharded")

pytestmark = pytest.mark.slow  # two interpreters, and the import of FSDP in each


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found: all ways with all adjoints in one launch."""
    folder = tmp_path_factory.mktemp("distributed")
    script = Path(__file__).with_name("distributed_worker.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    try:
        for process in processes:
            said, _ = process.communicate(timeout=120)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [json.loads((folder / f"report{rank}.json").read_text()) for rank in range(PROCESSES)]


@pytest.mark.parametrize("way", [way for way in WAYS if way not in SHARDED_FIELDS])
@pytest.mark.parametrize("name", ADJOINTS)
def test_gradients_are_those_of_one_process(
    reports: list[dict[str, Any]], name: str, way: str
) -> None:
    fields = 6 if way == "field_replicated" else 10
    for report in reports:
        found = report[f"{way}-{name}"]
        assert found["error"] < 1e-6
        assert len(found["found"]) == fields


@pytest.mark.parametrize("way", SHARDED_FIELDS)
@pytest.mark.parametrize("name", ADJOINTS)
def test_a_sharded_field_is_for_direct_alone(
    reports: list[dict[str, Any]], name: str, way: str
) -> None:
    """It tells by autograd when a backward pass has come through, and steps are replayed apart."""
    for report in reports:
        found = report[f"{way}-{name}"]
        if name == "direct":
            assert found["error"] < 1e-6
        else:
            assert "sharded by FSDP" in found["refused"]
            assert "adjoint=Direct()" in found["refused"]
