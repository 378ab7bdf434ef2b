"""Results that are kept as they come, so that a long experiment can be stopped and gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Result = dict[str, Any]


def kept(target: Path, compute: Callable[[], tuple[torch.nn.Module, Result]]) -> Result:
    """The result stored at `target`.json, computed first if it is not there.

    The model's weights go to `target`.pt. The result is written last and renamed: a run that was
    killed leaves none behind.
    """
    done = target.with_suffix(".json")
    if not done.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        model, result = compute()
        torch.save(model.state_dict(), target.with_suffix(".pt"))
        part = target.with_suffix(".part")
        part.write_text(json.dumps(result, indent=2))
        part.replace(done)
        print(f"{target.name}: done", flush=True)
    found: Result = json.loads(done.read_text())
    return found


def load_into(model: torch.nn.Module, target: Path) -> torch.nn.Module:
    """The model with the weights stored at `target`.pt."""
    model.load_state_dict(torch.load(target.with_suffix(".pt"), weights_only=True))
    return model
