"""Train the image classifier: from settings to a folder with weights, metrics and a report."""

from __future__ import annotations

import os
import statistics
from dataclasses import asdict, dataclass

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from ..nn import ImageClassifier
from ..plots import plot_error, plot_nfe, save_figure
from .checkpoint import AtomicCheckpointIO, MovableCheckpoint, read_checkpoint
from .config import OdenetConfig
from .datamodule import VALIDATION_BATCH, OdenetData, load_splits
from .errors import ConfigError
from .files import write_json
from .history import History
from .measure import score
from .odenet import OdenetModule
from .quiet import quiet
from .report import write_report
from .rundir import RunDirectory

__all__ = ["TrainResult", "load_weights", "train_odenet"]


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        path: The run's folder.
        test_error: Error on the test set with the weights that did best in validation, per cent.
        validation_error: The best error on the validation set, per cent.
        parameters: Number of parameters.
        nfe_forward: Mean evaluations per forward pass in the last epoch; 0 for a ResNet.
        nfe_backward: Mean evaluations per backward pass in the last epoch.
        seconds_per_epoch: Median over the epochs.
        epochs: Epochs trained, those before a resumption included.
        steps: Iterations trained.
    """

    path: str
    test_error: float
    validation_error: float
    parameters: int
    nfe_forward: float
    nfe_backward: float
    seconds_per_epoch: float
    epochs: int
    steps: int


def train_odenet(config: OdenetConfig, *callbacks: L.Callback) -> TrainResult | None:
    """Train, or go on training, and write the report.

    Args:
        config: The settings.
        *callbacks: Lightning callbacks of the caller's.

    Returns:
        The result; ``None`` in the processes of a distributed run other than the first.

    Raises:
        ConfigError: If a setting is wrong, or the folder does not fit.
        DataError: If the data cannot be read.
        TrainingError: If the loss is no longer finite.
    """
    config = RunDirectory.settle(config)
    _check_hardware(config)
    splits = load_splits(config)
    assert config.out is not None
    # One process makes the folder; the others of a distributed run start at the same moment.
    first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
    run = RunDirectory.prepare(config) if first else RunDirectory(config.out)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    L.seed_everything(config.seed, verbose=False)

    data = OdenetData(config, splits)
    epochs, total = data.plan(config.devices)
    module = OdenetModule(config.to_dict(), total)
    history = History(run.metrics_file)
    last = run.checkpoint("last")
    # A run that was ended before its first checkpoint starts from the beginning.
    resume = str(last) if config.resume and last.is_file() else None
    if resume is not None:
        read_checkpoint(last)
    with quiet():
        every = [history, *_callbacks(config, run), *callbacks]
        trainer = _make_trainer(config, run, every, epochs)
        trainer.fit(module, data, ckpt_path=resume)
    if not trainer.is_global_zero:
        return None
    return _finish(config, run, module, data, history.rows)


def load_weights(model: ImageClassifier, run: RunDirectory, checkpoint: str) -> None:
    """Put the weights of the checkpoint called `checkpoint` into `model`.

    Raises:
        ConfigError: If there is no such checkpoint, or it is another network's.
    """
    path = run.checkpoint(checkpoint)
    state = read_checkpoint(path).get("state_dict", {})
    prefix = "model."
    weights = {key.removeprefix(prefix): value for key, value in state.items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(f"{path} does not fit the network of {run.config_file}") from error


def _check_hardware(config: OdenetConfig) -> None:
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


def _callbacks(config: OdenetConfig, run: RunDirectory) -> list[L.Callback]:
    best = MovableCheckpoint(
        run.checkpoints,
        filename="best",
        monitor="validation_error",
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
    step = MovableCheckpoint(
        run.checkpoints,
        filename="last",
        every_n_train_steps=config.checkpoint_every,
        enable_version_counter=False,
    )
    callbacks: list[L.Callback] = [LearningRateMonitor("step"), best, step, epoch]
    if config.progress:
        callbacks.append(RichProgressBar())
    return callbacks


def _make_trainer(
    config: OdenetConfig, run: RunDirectory, callbacks: list[L.Callback], epochs: int
) -> L.Trainer:
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


def _finish(
    config: OdenetConfig,
    run: RunDirectory,
    module: OdenetModule,
    data: OdenetData,
    rows: list[dict[str, float]],
) -> TrainResult:
    """Test the best weights, and write figures and report."""
    load_weights(module.model, run, "best")
    test = score(module.model.eval(), data.splits.test, VALIDATION_BATCH)
    result = TrainResult(
        path=str(run.path),
        test_error=test.error,
        validation_error=min(row["validation_error"] for row in rows),
        parameters=sum(parameter.numel() for parameter in module.model.parameters()),
        nfe_forward=rows[-1].get("nfe_forward", 0.0),
        nfe_backward=rows[-1].get("nfe_backward", 0.0),
        seconds_per_epoch=statistics.median(row["seconds"] for row in rows),
        epochs=int(rows[-1]["epoch"]),
        steps=int(rows[-1]["step"]),
    )
    title = f"{config.model} on {config.data}"
    save_figure(plot_error(rows, title), run.path / "error.png")
    if module.model.ode is not None:
        save_figure(plot_nfe(rows, title), run.path / "nfe.png")
    write_json(run.result_file, asdict(result))
    write_report(run, _describe(result, test.samples), config.to_dict())
    return result


def _describe(result: TrainResult, samples: int) -> dict[str, str]:
    described = {
        "test error": f"{result.test_error:.2f} % of {samples:,} images",
        "validation error (best)": f"{result.validation_error:.2f} %",
        "parameters": f"{result.parameters:,}",
    }
    if result.nfe_forward:
        described["field evaluations, forward / backward, last epoch"] = (
            f"{result.nfe_forward:.1f} / {result.nfe_backward:.1f} per iteration"
        )
    described["time per epoch (median)"] = f"{result.seconds_per_epoch:.2f} s"
    described["epochs, iterations"] = f"{result.epochs}, {result.steps:,}"
    return described
