"""The benchmark measures what it says: both sides do the same maths on the same batches."""

import numpy as np
import pytest
import torch

from tests.running import ROOT

CONFIG = ["configs/signs.yaml", "tests/fake_data/signs_tiny.yaml"]
QUICK = ["--trainer.accelerator=cpu", "--data.synthetic_samples=240"]


@pytest.mark.slow
def test_fit_and_the_bare_loop_compute_the_same(tmp_path):
    """Not a claim about speed, which a loaded machine cannot check, but that the two sides may be compared at all."""
    from benchmarks.loop import describe, measure

    step = measure(CONFIG, "Interleave", ["--trainer.max_epochs=3", *QUICK], tmp_path)
    frames = measure(CONFIG, "Padding", ["--trainer.callbacks.rounds=2", *QUICK], tmp_path)
    # bit-equal for the first steps; then rounding, which differs with where a tensor lies in memory
    assert step["parameter_distance"] < 1e-4
    assert step["rounds"] == 2 and step["steps"] > 5 and 0.1 < step["ratio"] < 100
    assert frames["largest_difference_of_predictions"] < 1e-5
    assert frames["mean_len"] < frames["max_len"] == 96
    text = describe(step, frames)
    assert "ratio" in text and "target at most 1.05" in text


def test_a_constant_slowdown_is_the_ratio():
    from benchmarks.rounds import ratio_of_steps

    bare = np.random.default_rng(0).uniform(1, 2, size=(5, 20))
    found = ratio_of_steps((1.04 * bare).tolist(), bare.tolist())
    assert found["ratio"] == pytest.approx(1.04)
    assert found["ratio_spread"] == pytest.approx([1.04, 1.04])


def test_one_interrupted_step_does_not_move_the_ratio():
    from benchmarks.rounds import ratio_of_steps

    bare = np.ones((5, 20))
    fit = bare.copy()
    fit[2, 3] = 100.0
    assert ratio_of_steps(fit.tolist(), bare.tolist())["ratio"] == pytest.approx(1.0)


def test_padding_adds_only_frames_that_do_not_count():
    from benchmarks.rounds import pad

    batch = {
        "x": torch.randn(2, 3, 4),
        "mask": torch.tensor([[True] * 3, [True, True, False]]),
        "y": torch.tensor([0, 1]),
    }
    longer = pad(batch, 5)
    assert longer["x"].shape == (2, 5, 4) and longer["mask"].shape == (2, 5)
    assert longer["mask"].sum() == batch["mask"].sum()
    assert torch.equal(longer["x"][:, :3], batch["x"])


def test_wrong_arguments_are_refused(capsys):
    from benchmarks.loop import main

    with pytest.raises(SystemExit) as stop:
        main(["--system", "signs", "--data", "nowhere.npz"])
    assert stop.value.code == 2
    assert "no such file" in capsys.readouterr().err


def test_the_configs_of_the_benchmark_exist():
    from benchmarks.loop import REAL, SOURCES

    missing = [name for name in (*REAL.values(), *SOURCES) if not (ROOT / name).is_file()]
    assert not missing
