"""Files of a run: atomic writes, folders in use, checkpoints, the report."""

import json
from pathlib import Path

import pytest
import torch

from isocline.atomic import atomic_path
from isocline.train import ConfigError, OdenetConfig
from isocline.train.checkpoint import AtomicCheckpointIO, read_checkpoint
from isocline.train.files import write_text
from isocline.train.history import Columns, read_metrics, write_metrics
from isocline.train.report import write_evaluation, write_report
from isocline.train.rundir import RunDirectory


def _config(path: Path, **settings: object) -> OdenetConfig:
    return OdenetConfig(out=path, **settings).resolved()  # type: ignore[arg-type]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_run_gets_its_folder(tmp_path: Path) -> None:
    config = _config(tmp_path / "a" / "run")
    run = RunDirectory.prepare(config)
    assert run.read_config(OdenetConfig) == config


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    config = _config(tmp_path / "run")
    RunDirectory.prepare(config)
    with pytest.raises(ConfigError, match="holds a run already; continue it with --resume"):
        RunDirectory.prepare(config)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="is not empty, and is no run"):
        RunDirectory.prepare(_config(tmp_path / "other"))
    with pytest.raises(ConfigError, match=r"thesis.tex is a file"):
        RunDirectory.prepare(_config(tmp_path / "other" / "thesis.tex"))


def test_resume_takes_the_settings_of_the_run(tmp_path: Path) -> None:
    RunDirectory.prepare(_config(tmp_path / "run", epochs=3))
    settled = RunDirectory.settle(OdenetConfig(out=tmp_path / "run", resume=True))
    assert settled.epochs == 3
    RunDirectory.prepare(settled)


def test_resume_with_other_settings_names_them(tmp_path: Path) -> None:
    RunDirectory.prepare(_config(tmp_path / "run", epochs=3))
    settled = RunDirectory.settle(OdenetConfig(out=tmp_path / "run", resume=True, epochs=4))
    with pytest.raises(ConfigError, match="epochs: 3 in the run, 4 now"):
        RunDirectory.prepare(settled)


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run \(there is no config.json"):
        RunDirectory.settle(OdenetConfig(out=tmp_path / "none", resume=True))
    for content in ("{", "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ConfigError, match=r"config.json is damaged"):
            RunDirectory(tmp_path).read_config(OdenetConfig)


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    run = RunDirectory.prepare(_config(tmp_path / "run"))
    settings = json.loads(run.config_file.read_text())
    assert settings.pop("kind") == "odenet"
    run.config_file.write_text(json.dumps({"kind": "pendulum", **settings}))
    with pytest.raises(ConfigError, match="is a run of the kind pendulum, not odenet; give one"):
        run.read_config(OdenetConfig)
    with pytest.raises(ConfigError, match="settings of the kind 'pendulum', not of 'odenet'"):
        OdenetConfig.from_dict({"kind": "pendulum"})
    # Runs from before there were kinds are classifiers.
    run.config_file.write_text(json.dumps(settings))
    assert run.read_config(OdenetConfig) == _config(tmp_path / "run")


def test_checkpoints_hold_plain_data_only(tmp_path: Path) -> None:
    plain, code = tmp_path / "plain.ckpt", tmp_path / "code.ckpt"
    AtomicCheckpointIO().save_checkpoint({"x": torch.ones(2), "n": 1}, plain)
    assert AtomicCheckpointIO().load_checkpoint(plain)["n"] == 1
    assert list(tmp_path.iterdir()) == [plain]
    torch.save({"f": Path("x")}, code)
    with pytest.raises(ConfigError, match=r"code.ckpt cannot be read"):
        read_checkpoint(code)


def test_damaged_and_missing_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with pytest.raises(ConfigError, match="does not exist"):
        read_checkpoint(path)
    torch.save({"x": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ConfigError, match=r"last.ckpt cannot be read .*damaged"):
        read_checkpoint(path)


def test_metrics_keep_gaps(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert read_metrics(path) == []
    columns = Columns(averaged=("train_loss", "nfe_forward"), validated=())
    rows = [{"epoch": 1.0, "train_loss": 0.5}, {"epoch": 2.0, "nfe_forward": 20.0}]
    write_metrics(path, rows, columns)
    assert read_metrics(path) == [
        {"epoch": 1.0, "train_loss": 0.5},
        {"epoch": 2.0, "nfe_forward": 20.0},
    ]


def test_an_evaluation_takes_the_place_of_the_last(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    write_report(run, _config(tmp_path), {"test error": "1.00 %"}, {"the error": "error.png"})
    for text in ("first", "second"):
        write_evaluation(run, text)
    report = run.report_file.read_text()
    assert report.startswith("# odenet on digits")
    assert "| test error | 1.00 % |" in report
    assert "![the error](error.png)" in report
    assert "| `kind` | `odenet` |" in report
    assert "second" in report
    assert "first" not in report
    assert report.count("## Evaluation") == 1
