"""The driver of every kind of run: from settings to a folder with weights, metrics and a report."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol, TypeVar

import lightning as L
import torch

from .checkpoint import read_checkpoint
from .config import RunConfig
from .history import History, Rows
from .quiet import quiet
from .rundir import RunDirectory
from .trainer import Watched, check_hardware, make_callbacks, make_trainer

__all__ = ["Task", "first_process", "train"]

C = TypeVar("C", bound=RunConfig)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Task(Protocol[R_co]):
    """One kind of run, as the driver sees it: data, module, and what to do at the end.

    It is made from resolved settings, and reads its data then: what cannot be read is an error
    before a folder is made.
    """

    @property
    def watched(self) -> Watched:
        """What is looked at while it trains."""

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""

    @property
    def data(self) -> L.LightningDataModule:
        """Batches. Where an epoch starts in its middle, they follow `load_state_dict`."""

    @property
    def module(self) -> L.LightningModule:
        """The module to train. It is made at the first use, after the seeding."""

    def finish(self, run: RunDirectory, rows: Rows) -> R_co:
        """Test the trained module, and write figures, results and report.

        Args:
            run: The run's folder, with its checkpoints.
            rows: One row of metrics for each epoch.
        """


def train(config: C, make_task: Callable[[C], Task[R]], *callbacks: L.Callback) -> R | None:
    """Train, or go on training, and write the report.

    Args:
        config: The settings, as the user gave them.
        make_task: Makes the task from resolved settings.
        *callbacks: Lightning callbacks of the caller's.

    Returns:
        What the task finishes with; ``None`` in the processes of a distributed run other than the
        first.

    Raises:
        ConfigError: If a setting is wrong, or the folder does not fit.
        DataError: If the data cannot be read.
        TrainingError: If the loss is no longer finite.
    """
    config = RunDirectory.settle(config)
    check_hardware(config)
    task = make_task(config)
    assert config.out is not None
    # One process makes the folder; the others of a distributed run start at the same moment.
    run = RunDirectory.prepare(config) if first_process() else RunDirectory(config.out)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    L.seed_everything(config.seed, verbose=False)

    history = History(run.metrics_file, task.watched.columns)
    last = run.checkpoint("last")
    # A run that was ended before its first checkpoint starts from the beginning.
    resume = str(last) if config.resume and last.is_file() else None
    if resume is not None:
        read_checkpoint(last)
    with quiet():
        every = [*make_callbacks(config, run, task.watched, history), *callbacks]
        trainer = make_trainer(config, run, every, task.epochs)
        trainer.fit(task.module, task.data, ckpt_path=resume)
    if not trainer.is_global_zero:
        return None
    return task.finish(run, history.rows)


def first_process() -> bool:
    """Whether this is the first process of a distributed run, or the only one."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
