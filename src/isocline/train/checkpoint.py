"""Checkpoints that a kill cannot damage, and that hold plain data only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ..atomic import atomic_path
from .errors import ConfigError
from .rundir import RunDirectory

__all__ = [
    "AtomicCheckpointIO",
    "MovableCheckpoint",
    "StepCheckpoint",
    "load_weights",
    "read_checkpoint",
]


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


class StepCheckpoint(MovableCheckpoint):
    """Saves within an epoch, but not after its last iteration.

    A run that was killed between that checkpoint and the end of the epoch would go on with the next
    one, without the validation and the row of this one. The epoch's own checkpoint is at hand.
    """

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save, if it is time."""
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


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


def load_weights(
    model: torch.nn.Module, run: RunDirectory, checkpoint: str, prefix: str = "model."
) -> None:
    """Put the weights of the checkpoint called `checkpoint` into `model`.

    Args:
        model: The network, as the run built it.
        run: The run's folder.
        checkpoint: ``best`` or ``last``.
        prefix: What the names of the network's weights begin with in the trained module.

    Raises:
        ConfigError: If there is no such checkpoint, or it is another network's.
    """
    path = run.checkpoint(checkpoint)
    state = read_checkpoint(path).get("state_dict", {})
    weights = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(f"{path} does not fit the network of {run.config_file}") from error
