"""A run that is killed and resumed ends with the same bytes as one that ran on."""

import csv
import hashlib
import signal
from functools import reduce
from pathlib import Path

import pytest
import torch
import yaml

from tests.running import SYSTEMS, launch, run

pytestmark = pytest.mark.slow

EMA = "lightning.pytorch.callbacks.EMAWeightAveraging"
JITTER = {"class_path": "datamodules.sequences.Jitter"}
EDA = "datamodules.text_augmentation.EDA"
CURRICULUM = "datamodules.curriculum.Curriculum"
FOCAL = "modules.losses_catalogue.FocalAlpha"
RESTARTS = "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts"
BASE = {"checkpoint": {"every_n_steps": 3}, "report": {"baselines": False}}
WORKERS = {"trainer": {"accumulate_grad_batches": 2}, "data": {"init_args": {"num_workers": 2}}}
SIGNS = {
    "model": {"init_args": {"dropout": 0.2, "head_dropout": 0.3}},
    "data": {"init_args": {"augmentations": [JITTER]}},
}
# name: (changes of the config, optimizer steps before the kill, steps that the checkpoint to resume from has)
CASES = {
    "signs": {
        "mid_epoch_with_mixup": ([SIGNS, {"model": {"init_args": {"mixup_alpha": 0.3}}}], 11, 9),
        "workers_accumulation_schedule_by_epoch": (
            [
                SIGNS,
                WORKERS,
                {
                    "model": {
                        "init_args": {
                            "schedule": {"class_path": RESTARTS, "init_args": {"T_0": 2}},
                            "schedule_interval": "epoch",
                        }
                    }
                },
            ],
            7,
            6,
        ),
        "right_after_an_epoch": ([SIGNS, {"checkpoint": {"every_n_steps": None}}], 9, 8),
        "averaged_weights_and_class_weights": (
            [
                SIGNS,
                {
                    "trainer": {"callbacks": [{"class_path": EMA, "init_args": {"decay": 0.8}}]},
                    "model": {
                        "init_args": {
                            "num_classes": 30,
                            "input_dim": 128,
                            "positions": "sinusoidal",  # a buffer of the network beside those of the loss
                            "loss": {
                                "class_path": "modules.losses.CrossEntropy",
                                "init_args": {"class_weight": "balanced"},
                            },
                        }
                    },
                },
            ],
            11,
            9,
        ),
    },
    "papers": {  # ten batches an epoch
        "mid_epoch_with_mixup_of_vectors": ([{"model": {"init_args": {"mixup_alpha": 0.3}}}], 13, 12),
        "workers_accumulation_words_and_curriculum": (
            [
                WORKERS,
                {
                    "data": {
                        "init_args": {
                            "augmentations": [{"class_path": EDA, "init_args": {"p": 1.0}}],
                            "curriculum": {"class_path": CURRICULUM, "init_args": {"difficulty": "length_and_terms"}},
                        }
                    }
                },
            ],
            7,
            6,
        ),
        "several_tasks_keywords_and_a_focus_by_epoch": (
            [
                {
                    "model": {
                        "init_args": {
                            "auxiliary": {"crosslist": 0.3, "learning": 0.3, "length": 0.2},
                            "loss": {"class_path": FOCAL, "init_args": {"gamma": 3.0, "gamma_end": 1.0, "epochs": 2}},
                            "tuning": {"lora_rank": 2},
                        }
                    },
                    "data": {"init_args": {"auxiliary": True, "keywords": 4}},
                }
            ],
            13,
            12,
        ),
    },
    "plants": {  # ten batches an epoch
        "workers_accumulation_mixing_and_augmentation": (
            [
                WORKERS,
                {
                    "model": {"init_args": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "drop_path": 0.2}},
                    "data": {"init_args": {"augment": {"randaugment_ops": 1, "erasing": 0.5}}},
                },
            ],
            7,
            6,
        ),
    },
}
CASES["language"] = {  # about 30 batches an epoch
    "in_the_middle_of_streams_with_memory_noise_and_dropout": (
        [
            {
                "model": {
                    "init_args": {
                        "exploration": {"initial": 0.1, "maximum": 0.5, "kind": "gaussian", "end": 0.2, "steps": 9},
                        "dropouts": {"dropout": 0.1, "word_dropout": 0.1, "output_dropout": 0.2},
                    }
                },
            }
        ],
        40,
        39,
    ),
    "windows_workers_and_accumulation": (
        [WORKERS, {"model": {"init_args": {"memory": None}}, "data": {"init_args": {"order": "windows"}}}],
        20,
        18,
    ),
    "matrices_by_muon": (
        [
            {
                "model": {
                    "init_args": {"optimizer": {"class_path": "modules.muon.MuonAdamW", "init_args": {"lr": 3.0e-3}}}
                }
            }
        ],
        20,
        18,
    ),
}
CASES["gcode_encoder"] = {
    "workers_accumulation_mixing_noise_and_missing_boards": (
        [
            WORKERS,
            {
                "model": {"init_args": {"mixup_alpha": 0.3, "dropout": 0.2, "noise": 0.3}},
                "data": {"init_args": {"noise": 0.1, "scale": 0.1, "board_dropout": 0.3}},
            },
        ],
        4,
        3,
    ),
}
CASES["gcode_decoder"] = {
    "workers_accumulation_own_tokens_and_noise_of_the_memory": (
        [
            WORKERS,
            {
                "model": {"init_args": {"memory_noise": 0.3, "losses": {"teacher_forcing": 0.2, "phase_epochs": 1}}},
                "data": {"init_args": {"board_dropout": 0.3}},
                "probes": {"gradients": False},
            },
        ],
        4,
        3,
    ),
}
ANY = {"workers_and_accumulation": ([WORKERS], 4, 3)}  # of a system that names none
PAIRS = [(system, case) for system in SYSTEMS for case in CASES.get(system, ANY)]
# What a checkpoint holds besides the state that has to be the same: times of day, paths, progress.
OTHER = {"callbacks", "loops", "hyper_parameters", "hparams_name", "pytorch-lightning_version"}


def merged(base, changes):
    out = dict(base)
    for key, value in changes.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def sha256(tree):
    """Hash of all tensors and numbers of a nested structure, with their places."""
    digest = hashlib.sha256()

    def add(value):
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                digest.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for part in value:
                add(part)
        else:
            digest.update(repr(value).encode())

    add(tree)
    return digest.hexdigest()


def checkpoint(folder, name="last"):
    return torch.load(Path(folder) / "checkpoints" / f"{name}.ckpt", weights_only=True)


def log(folder):
    with (Path(folder) / "training_log.csv").open(encoding="utf-8", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def found(callbacks, name):
    return next(state for key, state in callbacks.items() if key.startswith(name))


@pytest.mark.parametrize(("system", "case"), PAIRS)
def test_killed_in_the_middle_and_resumed_ends_with_the_same_bytes(system, case):
    changes, killed_after, resumed_at = CASES.get(system, ANY)[case]
    config = reduce(merged, changes, BASE)
    Path("config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    words = ["fit", "--config", "config.yaml", "--name"]
    spy = ["--trainer.callbacks+=tests.spies.Kill", f"--trainer.callbacks.step={killed_after}"]
    first, second = (Path("runs") / system / name for name in ("whole", "killed"))

    # each in a process of its own, as a user's are: what other tests left in this one must not count
    whole_run = launch([*words, "whole"], system=system)
    assert whole_run.code == 0, whole_run.err[-2000:]
    died = launch([*words, "killed", *spy], system=system)
    assert died.code == -signal.SIGKILL, died.err[-2000:]
    assert checkpoint(second)["global_step"] == resumed_at
    went_on = launch([*words, "killed", "--ckpt_path", "last"], system=system)
    assert went_on.code == 0, went_on.err[-2000:]

    whole, resumed = checkpoint(first), checkpoint(second)
    assert resumed.keys() == whole.keys()
    assert {"state_dict", "optimizer_states", "lr_schedulers", "processes", "global_step", "epoch"} <= whole.keys()
    for part in whole.keys() - OTHER:  # also averaged weights, and what the data fitted
        assert sha256(resumed[part]) == sha256(whole[part]), part
    assert log(second) == log(first)
    assert len(log(first)) == 2
    for name in ("EarlyStopping", "GradientClipping"):
        assert sha256(found(resumed["callbacks"], name)) == sha256(found(whole["callbacks"], name)), name
    best, best_whole = (found(c["callbacks"], "Checkpoint") for c in (resumed, whole))
    assert (best["best_epoch"], best["best_model_score"]) == (best_whole["best_epoch"], best_whole["best_model_score"])
    best, best_whole = checkpoint(second, "best"), checkpoint(first, "best")
    assert sha256(best["state_dict"]) == sha256(best_whole["state_dict"])
    assert found(best["callbacks"], "Checkpoint")["best_epoch"] == best["epoch"]


def test_a_learning_rate_that_was_changed_holds_after_a_resume():
    schedule = {"class_path": RESTARTS, "init_args": {"T_0": 10}}
    config = merged(merged(BASE, SIGNS), {"model": {"init_args": {"schedule": schedule, "schedule_interval": "epoch"}}})
    Path("config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    words = ["fit", "--config", "config.yaml", "--name", "run"]
    run([*words, "--trainer.max_epochs", "1", "--model.optimizer.lr", "1e-3"])
    run([*words, "--trainer.max_epochs", "3", "--model.optimizer.lr", "1e-4", "--ckpt_path", "last"])
    rates = [float(row["lr"]) for row in log("runs/signs/run")]
    wanted = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    course = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(wanted, 10)
    expected = [1e-3]
    for _ in range(2):
        wanted.step()
        course.step()
        expected.append(course.get_last_lr()[0])
    assert rates == pytest.approx(expected, rel=1e-6)
