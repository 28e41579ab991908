"""The second stage as a system: it rebuilds from its own checkpoint, its encoder is the run's, each setting acts."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.base import ClassMapError
from modules.gcode_decoder import GcodeDecoder
from modules.gcode_losses import Losses
from modules.gcode_tokens import EOS, PAD
from modules.nets.gcode_decoder import Shape
from tests.fake_data.gcode_decoder_toy import encoder_run
from tests.running import code, data_of, data_of_run, fitted_run, parameters, tiny

SYSTEM = "gcode_decoder"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    return fitted_run(tmp_path_factory, SYSTEM)


@pytest.fixture(scope="module")
def best(fitted) -> Path:
    return fitted / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def data(fitted, best):
    return data_of_run(fitted, torch.load(best, weights_only=True))


class OneStep:
    """A Trainer for a training step by hand: half of the training is over."""

    ckpt_path, world_size, callbacks = None, 1, ()
    estimated_stepping_batches = 10

    def __init__(self, data: object, epoch: int = 0) -> None:
        self.datamodule, self.current_epoch, self.global_step = data, epoch, 5


def rebuilt(best: Path, data: object = None, epoch: int = 0, **changed: object) -> GcodeDecoder:
    """The fitted system, from its checkpoint alone."""
    system = GcodeDecoder.load_from_checkpoint(best, map_location="cpu", weights_only=True, **changed)
    if data is not None:
        system.trainer = OneStep(data, epoch)
    return system


def test_it_is_rebuilt_from_its_own_checkpoint_without_the_encoders_run(best, data, tmp_path):
    alone = tmp_path / "weights of mine.ckpt"
    shutil.copy(best, alone)
    saved = torch.load(alone, weights_only=True)
    saved["hyper_parameters"]["encoder"] = str(tmp_path / "nowhere")
    torch.save(saved, alone)
    system = rebuilt(alone).eval()
    for name, value in saved["state_dict"].items():
        torch.testing.assert_close(system.state_dict()[name], value, rtol=0, atol=0)
    with torch.inference_mode():
        found = system.test_step(data.probe_batch(8), 0)
    assert len(system.texts(found)) == 8
    assert json.loads(system.hparams["vocabulary"]) == data.vocabulary.state()


def test_the_encoder_is_a_copy_of_its_run_and_training_left_it_alone(best):
    copied, own = parameters(best), parameters(encoder_run() / "checkpoints" / "best.ckpt")
    names = [name for name in own if name.startswith("net.")]
    assert names
    for name in names:
        assert torch.equal(copied[f"net.encoder.{name.removeprefix('net.')}"], own[name])


def test_validation_metrics_are_those_of_the_stored_outputs(fitted, best, data):
    """Recomputed window by window, in other batches, from what a step returns."""
    system = rebuilt(best, data).eval()
    rows = data.indices("val")
    tokens, lines, operations = [], [], []
    with torch.inference_mode():
        for row in np.array_split(rows, 5):
            batch = batch_of(data, row)
            found = system.validation_step(batch, 0)
            for i, written in enumerate(system.texts(found)):
                real = batch["y_tokens"][i] != PAD
                truth = data.lines[row[i]]
                lines.append(written == truth)
                operations.append(int(found["prob"][i].argmax()) == int(batch["y"][i]))
                for said, true in zip(found["forced_fields"][i][real], batch["y_fields"][i][real], strict=True):
                    tokens.append(bool(((said == true) | (true < 0)).all()))
    wanted = {"token_accuracy": tokens, "line_accuracy": lines, "operation_accuracy": operations}
    for name, right in wanted.items():
        assert float(system.val_metrics[name].compute()) == pytest.approx(np.mean(right), abs=1e-6)
    logged = torch.load(best, weights_only=True)["callbacks"]
    monitored = [state["best_model_score"] for state in logged.values() if "best_model_score" in state]
    assert float(monitored[0]) == pytest.approx(np.mean(tokens), abs=1e-6)


def batch_of(data, rows: np.ndarray) -> dict[str, torch.Tensor]:
    from datamodules.samplers import IndexBatch

    index = IndexBatch(rows.tolist(), len(rows), 1 / len(rows), 0, 0)
    return data.dataset(rows, train=False).__getitems__(index)


def test_a_token_outside_the_vocabulary_is_never_right():
    from modules.gcode_answers import right_tokens
    from modules.gcode_tokens import UNK

    tokens = torch.tensor([[UNK, 7, EOS]])
    assert right_tokens({"tokens": tokens, "forced_tokens": tokens}, "flat").tolist() == [[False, True, True]]


def test_a_line_is_right_only_with_its_end(best, data):
    from modules.gcode_answers import right_lines

    batch = data.probe_batch(6)
    found = {"tokens": batch["y_tokens"], "fields": batch["y_fields"]}
    right = found | {"free_tokens": batch["y_tokens"], "free_fields": batch["y_fields"]}
    assert right_lines(right, "flat").all() and right_lines(right, "heads").all()
    longer = batch["y_tokens"].clone(), batch["y_fields"].clone()
    ends = longer[0] == EOS
    longer[0][ends], longer[1][ends] = 7, longer[1][:, 0][ends.any(1)]
    wrong = found | {"free_tokens": longer[0], "free_fields": longer[1]}
    assert not right_lines(wrong, "flat").any() and not right_lines(wrong, "heads").any()
    cut = found | {"free_tokens": batch["y_tokens"][:, :2], "free_fields": batch["y_fields"][:, :2]}
    long = (batch["y_tokens"] != PAD).sum(1) > 2
    assert not right_lines(cut, "heads")[long].any() and not right_lines(cut, "flat")[long].any()


def losses_of(best: Path, data: object, epoch: int = 0, **changed: object) -> float:
    system = rebuilt(best, data, epoch, **changed).train()
    for module in system.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    return float(system.training_step(data.probe_batch(8), 0).detach())


LOSSES = {"flat": 1.0, "type": 1.0, "command": 2.5, "param": 1.5, "sign": 1.0, "digits": 1.0, "value": 0.1,
          "operation": 1.0, "gamma": 3.0, "label_smoothing": 0.1, "class_weight": "none", "phase_epochs": 0,
          "teacher_forcing": 1.0}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"losses": LOSSES | {"gamma": 0.0}},
        {"losses": LOSSES | {"label_smoothing": 0.0}},
        {"losses": LOSSES | {"phase_epochs": 1}},
        {"losses": LOSSES | {"teacher_forcing": 0.0}},
        {"losses": LOSSES | {"digits": 3.0}},
        {"memory_noise": 0.5},
        {"conditioning": "label"},
    ],
    ids=lambda changed: "-".join(changed),
)
def test_each_setting_of_training_changes_the_loss_of_a_step(best, data, changed):
    base, other = losses_of(best, data), losses_of(best, data, **changed)
    assert losses_of(best, data) == base  # and nothing else does
    assert abs(base - other) > 1e-6


def test_noise_and_sampled_inputs_are_keyed_by_the_epoch(best, data):
    for changed in ({"memory_noise": 0.5}, {"losses": LOSSES | {"teacher_forcing": 0.0}}):
        first, again, later = (losses_of(best, data, epoch, **changed) for epoch in (0, 0, 1))
        assert first == again != later


def test_the_label_is_told_to_the_decoder_and_a_missing_one_is_not(best, data):
    system = rebuilt(best, data, conditioning="label").eval()
    batch = data.probe_batch(8)
    with torch.inference_mode():
        probable = system.judge(batch | {"y": torch.full_like(batch["y"], -1)}, system.decoding)
        predicted = rebuilt(best, data).eval().judge(batch, system.decoding)
        label = system.judge(batch, system.decoding)
    torch.testing.assert_close(probable["log_prob"], predicted["log_prob"])
    assert not torch.allclose(label["log_prob"], predicted["log_prob"])


def test_joint_training_has_a_rate_of_its_own_and_reaches_the_encoder(best, data):
    sizes = {name: rebuilt(best).hparams[name] for name in (*GcodeDecoder.SIZES, "vocabulary")}
    system = GcodeDecoder(
        optimizer=partial(torch.optim.AdamW, lr=1e-3), encoder=str(encoder_run()), train_encoder=True, **sizes
    ).train()
    system.trainer = OneStep(data)
    groups = {group["name"].split("_")[0]: group["lr"] for group in system.parameter_groups()}
    assert groups["encoder"] == pytest.approx(0.1 * groups["decoder"])
    counted = sum(len(group["params"]) for group in system.parameter_groups())
    assert counted == len(list(system.parameters()))
    system.training_step(data.probe_batch(8), 0).backward()
    dead = [name for name, p in system.net.encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead in ([], ["fill.value"])  # where no recording lacks a channel


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split.seed", "7"], "trained on another split"),
        (["--model.encoder", "nowhere"], "no encoder at nowhere"),
        (["--data.drop", "[machine_position]"], "has other channels|was built for input_dim"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused_in_one_line(fitted, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    path = data_of(fitted)
    path[1] = str((fitted.parents[2] / path[1]).resolve())
    assert code(tiny(["fit", *path, "--name", "x", *words], SYSTEM), config=False) != 0
    assert_line(capsys.readouterr().err, message)


def assert_line(err: str, message: str) -> None:
    import re

    lines = [line for line in err.splitlines() if re.search(message, line)]
    assert len(lines) == 1, err


def test_a_checkpoint_of_another_system_is_no_encoder(best):
    from modules.gcode_encoder_run import read_encoder_run

    with pytest.raises(ClassMapError, match="is no checkpoint of gcode_encoder"):
        read_encoder_run(str(best))
    with pytest.raises(ClassMapError, match=r"set model\.encoder"):
        read_encoder_run(None)


def test_heads_that_are_not_there_cannot_answer(best):
    with pytest.raises(ValueError, match=r"layout: flat needs shape\.flat_head"):
        rebuilt(best, layout="flat", shape={"flat_head": False})


def built(best: Path, data: object, **changed: object) -> GcodeDecoder:
    """A new system at the sizes of the fitted one, set up on the data for a fit."""
    sizes = {name: rebuilt(best).hparams[name] for name in GcodeDecoder.SIZES}
    shape = Shape(width=16, attention_heads=2, layers=1, ffn=16, **changed.pop("shape", {}))
    optimizer = partial(torch.optim.AdamW, lr=1e-3)
    system = GcodeDecoder(optimizer=optimizer, encoder=str(encoder_run()), shape=shape, **sizes | changed)
    system.trainer = OneStep(data)
    system.setup("fit")
    return system


def test_bins_of_the_summary_are_those_of_training_windows_and_chosen_channels(best, data):
    system = built(best, data, shape={"summary": "window", "summary_bins": 4}, summary_of=["machine_position"])
    channels = data.channel_groups()["machine_position"]
    assert system.hparams["summary_channels"] == sorted(channels)
    values, _ = data.window_values(data.indices("train"))
    means = np.sort(values[..., sorted(channels)].mean(1), axis=0)  # the first statistics
    edges = system.net.decoder.summary.edges[: len(channels)].numpy()
    np.testing.assert_allclose(edges[:, 0], means[0], atol=1e-4)
    np.testing.assert_allclose(edges[:, -1], means[-1], atol=1e-3)
    others = [c for c in range(data.input_dim) if c not in channels]
    batch = data.probe_batch(4)
    batch["continuous"][..., others] = 0.0
    summary, seen, operation = system.net.decoder.summary.eval(), data.probe_batch(4)["continuous"], torch.arange(4)
    torch.testing.assert_close(summary(batch["continuous"], operation), summary(seen, operation))
    assert not torch.allclose(summary(seen, operation), summary(seen, operation.flip(0)))
    with pytest.raises(ClassMapError, match=r"summary_of names \['no such'\]"):
        built(best, data, shape={"summary": "window"}, summary_of=["no such"])
    with pytest.raises(ValueError, match=r"needs shape\.summary: window"):
        built(best, data, summary_of=["machine_position"])


def test_the_program_of_an_operation_comes_from_the_data_and_is_a_hyperparameter(best, data):
    system = built(best, data, conditioning="program")
    names, programs = list(data.class_names), system.hparams["programs"]
    assert programs[names.index("damageface")] == names.index("face150025")
    assert programs[names.index("pocket")] == names.index("pocket")
    assert system.net.told_as.tolist() == programs


def test_class_weights_of_the_heads_come_from_the_training_lines(best, data):
    system = built(best, data, losses=Losses(class_weight="balanced"))
    counts = data.field_counts()["command"]
    weights = system.loss.heads["of_command"].class_weights
    rare, often = int(np.argmin(np.where(counts > 0, counts, 10**9))), int(np.argmax(counts))
    assert float(weights[rare] / weights[often]) == pytest.approx(counts[often] / counts[rare], rel=1e-5)


def test_settings_that_would_do_nothing_are_refused():
    for shape in ({"chain": True}, {"true_param": True}):
        with pytest.raises(ValueError, match="field_heads: true"):
            Shape(field_heads=False, **shape)
    with pytest.raises(ValueError, match="memory_noise needs a memory"):
        GcodeDecoder(optimizer=partial(torch.optim.AdamW), memory_noise=0.1, shape=Shape(cross_attention=False))
