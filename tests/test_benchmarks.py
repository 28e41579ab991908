"""The benchmark measures what it says: both sides do the same maths on the same batches."""

import numpy as np
import pytest
import torch

from tests.running import ROOT

UNITS = {"signs": 96, "papers": 72}  # system -> places of a sample that is padded to the maximum, at toy size


@pytest.mark.slow
@pytest.mark.parametrize("system", sorted(UNITS))
def test_fit_and_the_bare_loop_compute_the_same(system, tmp_path):
    """Not a claim about speed, which a loaded machine cannot check, but that the two sides may be compared at all."""
    from benchmarks.common import epochs, measure
    from benchmarks.loop import describe

    config = [f"configs/{system}.yaml", f"tests/fake_data/{system}_tiny.yaml"]
    quick = ["--trainer.accelerator=cpu", "--data.synthetic_samples=240"]
    quick += ["--data.title_len=40"] if system == "papers" else []  # or every text is cut at the same length
    step = measure(config, "benchmarks.rounds.Interleave", [*epochs(3), *quick], tmp_path)
    padding = measure(config, "benchmarks.rounds.Padding", ["--trainer.callbacks.rounds=2", *quick], tmp_path)
    # bit-equal for the first steps; then rounding, which differs with where a tensor lies in memory
    assert step["parameter_distance"] < 1e-4
    assert step["rounds"] == 2 and step["steps"] > 5
    assert padding["largest_difference_of_predictions"] < 1e-5
    assert padding["mean_len"] < padding["max_len"] == UNITS[system]
    text = describe(system, step, padding)
    assert "ratio" in text and "target at most 1.05" in text


@pytest.mark.slow
def test_pictures_a_second_of_the_pipeline_the_network_and_fit(tmp_path):
    from benchmarks.common import epochs, measure
    from benchmarks.images import describe

    config = ["configs/plants.yaml", "tests/fake_data/plants_tiny.yaml"]
    words = [*epochs(3), "--trainer.accelerator=cpu"]
    found = measure(config, "benchmarks.images.Images", words, tmp_path)
    assert found["epochs"] == 2 and min(found["pipeline"], found["network"], found["fit"]) > 0
    assert found["share_of_the_slower"] == found["fit"] / min(found["pipeline"], found["network"])
    assert "fit over the slower of the two" in describe(found) and "target at least 0.9" in describe(found)


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
    longer = pad(batch, {"mask": 5})
    assert longer["x"].shape == (2, 5, 4) and longer["mask"].shape == (2, 5)
    assert longer["mask"].sum() == batch["mask"].sum()
    assert torch.equal(longer["x"][:, :3], batch["x"])


def test_each_field_is_padded_to_its_own_maximum():
    from benchmarks.rounds import pad

    batch = {f"{field}_{kind}": torch.ones(2, n) for field, n in (("title", 3), ("abstract", 7))
             for kind in ("ids", "mask")}  # fmt: skip
    longer = pad(batch | {"y": torch.ones(2)}, {"title_mask": 4, "abstract_mask": 9})
    assert {name: tuple(x.shape) for name, x in longer.items()} == {
        "title_ids": (2, 4), "title_mask": (2, 4), "abstract_ids": (2, 9), "abstract_mask": (2, 9), "y": (2,)
    }  # fmt: skip


def test_wrong_arguments_are_refused(capsys):
    from benchmarks.loop import main

    with pytest.raises(SystemExit) as stop:
        main(["--system", "signs", "--data", "nowhere.npz"])
    assert stop.value.code == 2
    assert "no such file" in capsys.readouterr().err


def test_a_command_holds_no_path_of_this_machine(tmp_path):
    from benchmarks.common import read_words

    (tmp_path / "papers.csv").write_text("", encoding="utf-8")
    words = ["--system", "papers", "--data", str(tmp_path / "papers.csv"), f"--data.tokenizer={tmp_path / 'minilm'}"]
    given = read_words("benchmarks.loop", None, ["papers"], 6, words)
    assert given.command("benchmarks.loop") == (
        "python -m benchmarks.loop --system papers --data papers.csv --rounds 6 --data.tokenizer=minilm"
    )


def test_the_configs_of_the_benchmark_exist():
    from benchmarks.common import SOURCES
    from benchmarks.loop import REAL

    names = [*(f"configs/{system}.yaml" for system in REAL), *SOURCES]
    assert [name for name in names if not (ROOT / name).is_file()] == []
