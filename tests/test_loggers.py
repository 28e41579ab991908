"""Local CSV always; W&B offline without a key or a server, with one warning, and never an exception from it."""

import json
import socket
import subprocess
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger

from lightning_project.loggers import SafeWandbLogger, close_loggers, make_loggers, why_offline


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in (
        "WANDB_API_KEY",
        "WANDB_MODE",
        "WANDB_BASE_URL",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("NO_PROXY", "*")
    yield
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:  # of a test that breaks a logger off on purpose
        wandb.finish()


@pytest.fixture
def silent_server():
    """A socket that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def answering_server():
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def inspect(folder: Path, *options: str) -> list[dict]:
    """Read an offline run back with the client's own reader."""
    (run,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", str(run), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def test_off_means_csv_only_and_no_attempt_erases_another(tmp_path):
    for attempt in (0, 1):
        (logger,) = make_loggers(tmp_path, "fit", "off", "p", "n")
        assert isinstance(logger, CSVLogger)
        logger.log_metrics({"train/loss": float(attempt)}, step=1)
        logger.save()
    texts = [(tmp_path / "fit" / f"log-{attempt}" / "metrics.csv").read_text() for attempt in (0, 1)]
    assert [text.splitlines()[1].split(",") for text in texts] == [["1", "0.0"], ["1", "1.0"]]
    assert not (tmp_path / "wandb_id.txt").exists()


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_an_offline_run_is_read_back_and_continued_under_its_id(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # asked for by the user: nothing to warn about
        loggers = make_loggers(tmp_path, "fit", mode, "signs", "first", {"seed_everything": 7, "model": {"lr": 0.5}})
    logger = loggers[1]
    assert isinstance(logger, SafeWandbLogger)
    logger.log_metrics({"train/loss": 0.25}, step=3)
    settings = logger.experiment.settings
    assert (settings.save_code, settings.console, settings.disable_git) == (False, "off", True)
    close_loggers(loggers)
    records = inspect(tmp_path)
    text = json.dumps(records)
    assert "train/loss" in text and "0.25" in text and "seed_everything" in text
    assert socket.gethostname() not in text or len(socket.gethostname()) < 4
    name = (tmp_path / "wandb_id.txt").read_text().strip()
    again = make_loggers(tmp_path, "test", "offline", "signs", "first")[1]
    assert again.version == name == logger.version
    assert again._wandb_init["resume"] == "allow"


def test_online_without_a_key_is_offline_with_one_warning_that_names_the_command(tmp_path, monkeypatch):
    with pytest.warns(UserWarning) as caught:
        loggers = make_loggers(tmp_path, "fit", "online", "signs", "n")
        loggers[1].log_metrics({"a": 1.0}, step=0)
    close_loggers(loggers)
    (only,) = caught
    assert "no API key" in str(only.message) and f"wandb sync {tmp_path}/wandb/offline-run-" in str(only.message)
    assert list((tmp_path / "wandb").glob("offline-run-*"))


@pytest.mark.timeout(120)  # against waiting for ever, not a claim about speed
def test_a_refused_and_a_silent_server_are_unreachable(monkeypatch, silent_server):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    for url in ("http://127.0.0.1:9", silent_server, "http://[broken"):
        monkeypatch.setenv("WANDB_BASE_URL", url)
        assert "no answer from" in why_offline()


def test_a_server_that_answers_and_a_key_mean_online(monkeypatch, tmp_path, answering_server):
    monkeypatch.setenv("WANDB_BASE_URL", answering_server)
    assert "no API key" in why_offline()
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password " + "k" * 40 + "\n")
    assert why_offline() is None


def test_a_run_that_cannot_be_opened_online_is_opened_offline(tmp_path, monkeypatch, answering_server):
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", answering_server)
    real, modes = wandb.init, []

    def init(**options):
        modes.append(options["mode"])
        if options["mode"] == "online":
            raise wandb.errors.CommError("the server went silent")
        return real(**options)

    monkeypatch.setattr(wandb, "init", init)
    with pytest.warns(UserWarning, match="CommError when opening the run.*wandb sync") as caught:
        loggers = make_loggers(tmp_path, "fit", "online", "signs", "n")
        loggers[1].log_metrics({"a": 1.0}, step=0)
        loggers[1].log_metrics({"a": 2.0}, step=1)
    close_loggers(loggers)
    assert modes == ["online", "offline"] and len(caught) == 1


def test_a_logger_that_dies_in_mid_run_warns_once_and_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    loggers = make_loggers(tmp_path, "fit", "online", "signs", "n")
    logger = loggers[1]

    def fail(*_, **__):
        raise ConnectionResetError("gone")

    logger.log_metrics({"a": 1.0}, step=0)
    monkeypatch.setattr(logger._experiment, "log", fail)
    with pytest.warns(UserWarning, match="W&B logging ended") as caught:
        for step in range(3):
            logger.log_metrics({"a": 1.0}, step=step)
        logger.log_hyperparams({"b": 1})
        logger.finalize("success")
    assert len(caught) == 1
    close_loggers(loggers)


def test_other_ranks_neither_ask_the_server_nor_write(tmp_path, monkeypatch):
    from lightning.pytorch.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logger = make_loggers(tmp_path, "fit", "online", "signs", "n")[1]
        logger.log_metrics({"a": 1.0}, step=0)
    assert logger._experiment is None
    assert not (tmp_path / "wandb_id.txt").exists() and not (tmp_path / "wandb").exists()


def test_a_class_called_na_keeps_its_name_in_the_tables(tmp_path):
    from callbacks.report_wandb import _read

    (tmp_path / "per_class.csv").write_text(",f1-score,support\nNA,0.5,3\nNone,,0\n")
    (tmp_path / "levels.csv").write_text("level,class\ngenus,NA\n")
    table = _read(tmp_path / "per_class.csv")
    assert table["class"].tolist() == ["NA", "None"] and table["f1-score"].isna().tolist() == [False, True]
    assert _read(tmp_path / "levels.csv")["class"].tolist() == ["NA"]
