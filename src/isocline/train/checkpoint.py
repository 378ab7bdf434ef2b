"""Checkpoints that a kill cannot damage, and that hold plain data only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from .errors import ConfigError
from .files import atomic_path

__all__ = ["AtomicCheckpointIO", "MovableCheckpoint", "read_checkpoint"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes through a file in the same folder; reads with ``weights_only=True``.

    Lightning's own goes through the system's temporary folder, often another file system, from
    where the move into place is a copy that can be cut off.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Save all or nothing."""
        del storage_options
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Load plain data; a checkpoint that holds code is refused."""
        del map_location, weights_only
        return read_checkpoint(Path(path))


class MovableCheckpoint(ModelCheckpoint):
    """Remembers the best score in a folder that has been moved since, too.

    Lightning's own forgets it there, and then takes the next weights for the best, however bad.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state, with the paths that hold now."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        state = {**state_dict, "dirpath": self.dirpath}
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = here(state[name])
        state["best_k_models"] = {here(path): v for path, v in state["best_k_models"].items()}
        super().load_state_dict(state)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint to the CPU.

    Raises:
        ConfigError: If there is none, or it cannot be read.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; the run was ended before its first checkpoint")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises half a dozen unrelated types for files that are cut off or of another kind.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path} cannot be read ({reason}); is it damaged?") from error
    return content
