"""Samples while a model learns: a file by epoch, and a training that does not notice."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from callbacks.generation import Generation
from tests.running import digest, run

WORDS = ["--trainer.callbacks+=callbacks.generation.Generation", "--trainer.callbacks.max_new_tokens=5"]


@pytest.mark.slow
def test_samples_are_kept_by_epoch_and_training_does_not_notice(tmp_path):
    less = ["--report.bootstrap=0", "--report.baselines=false", "--data.synthetic_samples=3000"]
    run(["fit", "--name", "without", *less], system="language")
    run(["fit", "--name", "with", *less, *WORDS, "--wandb", "offline"], system="language")
    paths = [Path(f"runs/language/{name}/checkpoints/last.ckpt") for name in ("without", "with")]
    assert digest(paths[0]) == digest(paths[1])
    rows = [json.loads(line) for line in Path("runs/language/with/samples.jsonl").read_text().splitlines()]
    prompts = Generation().prompts
    assert [(row["epoch"], row["prompt"]) for row in rows] == [(e, p) for e in (0, 1) for p in prompts]
    assert all(0 <= row["off_likeliest"] <= 1 for row in rows) and len({row["step"] for row in rows}) == 2
    tables = list(Path("runs/language/with").rglob("*samples*.table.json"))
    assert tables, "the table for W&B"
    # an epoch that comes again replaces its samples
    run(["fit", "--name", "with", *less, *WORDS, "--trainer.max_epochs=3", "--ckpt_path", "last"], system="language")
    again = [json.loads(line) for line in Path("runs/language/with/samples.jsonl").read_text().splitlines()]
    assert again[: len(rows)] == rows and [row["epoch"] for row in again[len(rows) :]] == [2] * len(prompts)
    assert torch.load(paths[1], weights_only=True)["epoch"] == 2


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029", "\x1c"])
def test_a_resumed_run_takes_up_samples_whatever_characters_they_hold(tmp_path, character):
    rows = [{"epoch": epoch, "text": f"a{character}b\r\nc"} for epoch in range(3)]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]  # as they are written
    (tmp_path / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
    callback = Generation()
    callback.on_train_start(SimpleNamespace(default_root_dir=tmp_path, current_epoch=2), None)
    assert callback.rows == rows[:2]


@pytest.mark.parametrize("setting", [{"prompts": ()}, {"max_new_tokens": 0}, {"every_n_epochs": 0}])
def test_settings_without_a_meaning_are_refused(setting):
    with pytest.raises(ValueError, match="generation needs"):
        Generation(**setting)
