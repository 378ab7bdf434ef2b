"""Lightning's trainer, set up alike for every kind of run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger

from .checkpoint import AtomicCheckpointIO, MovableCheckpoint, StepCheckpoint
from .config import RunConfig
from .errors import ConfigError
from .history import Columns, History
from .progress import TrainingBar
from .rundir import RunDirectory

__all__ = ["Watched", "check_hardware", "make_callbacks", "make_trainer"]


@dataclass(frozen=True)
class Watched:
    """What is looked at while a run trains.

    Attributes:
        columns: Columns of ``metrics.csv``.
        monitor: The metric whose best value marks the ``best`` weights.
        mode: Whether the least or the greatest value is the best.
        shown: Metrics in the progress bar, with their short names.
    """

    columns: Columns
    monitor: str
    mode: Literal["min", "max"]
    shown: Mapping[str, str]


def check_hardware(config: RunConfig) -> None:
    """See to it that the machine has what the settings ask for.

    Raises:
        ConfigError: If it has not.
    """
    cuda = torch.cuda.is_available() and config.accelerator != "cpu"
    if config.accelerator == "gpu" and not cuda:
        raise ConfigError("--accelerator gpu, but torch finds no GPU; use --accelerator cpu")
    if config.precision == "16-mixed" and not cuda:
        raise ConfigError(
            "--precision 16-mixed needs a CUDA device, and there is none; use bf16-mixed or 32"
        )
    launched = int(os.environ.get("LOCAL_WORLD_SIZE", config.devices))
    if launched != config.devices:
        raise ConfigError(
            f"--devices {config.devices}, but torchrun started {launched} processes; give both the "
            "same number"
        )
    if cuda and config.devices > torch.cuda.device_count():
        raise ConfigError(
            f"--devices {config.devices}, but torch finds {torch.cuda.device_count()} GPU(s)"
        )


def make_callbacks(
    config: RunConfig, run: RunDirectory, watched: Watched, history: History
) -> list[L.Callback]:
    """History, checkpoints, learning rate, and the progress bar if there is to be one."""
    best = MovableCheckpoint(
        run.checkpoints,
        filename="best",
        monitor=watched.monitor,
        mode=watched.mode,
        save_top_k=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    # The last state, after each epoch and every so many iterations within one.
    epoch = MovableCheckpoint(
        run.checkpoints,
        filename="last",
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    step = StepCheckpoint(
        run.checkpoints,
        filename="last",
        every_n_train_steps=config.checkpoint_every,
        enable_version_counter=False,
    )
    callbacks: list[L.Callback] = [history, LearningRateMonitor("step"), best, step, epoch]
    if config.progress:
        callbacks.append(TrainingBar(watched.shown))
    return callbacks


def make_trainer(
    config: RunConfig, run: RunDirectory, callbacks: list[L.Callback], epochs: int
) -> L.Trainer:
    """Make the trainer of a run of `epochs` epochs."""
    return L.Trainer(
        accelerator=config.accelerator,
        callbacks=callbacks,
        default_root_dir=run.path,
        devices=config.devices,
        enable_model_summary=False,
        enable_progress_bar=config.progress,
        log_every_n_steps=10,
        logger=TensorBoardLogger(str(run.path), name="", version="tensorboard"),
        max_epochs=epochs,
        num_sanity_val_steps=0,
        plugins=[AtomicCheckpointIO()],
        precision=config.precision,
        # Batches depend on the epoch, and are made anew for each.
        reload_dataloaders_every_n_epochs=1,
        strategy=config.strategy,
        use_distributed_sampler=False,
    )
