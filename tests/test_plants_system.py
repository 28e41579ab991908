"""The classifier of `plants`: sizes of the brief, what is frozen, how fast blocks learn, where weights come from."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.base import ClassMapError
from modules.losses_deferred import Deferred
from modules.nets.plants import PlantsNet
from modules.plants import PlantsClassifier, cutmix
from tests.running import run


def adamw(params):
    return torch.optim.AdamW(params, lr=0.01, weight_decay=0.1)


def system(**more) -> PlantsClassifier:
    torch.manual_seed(0)
    settings = {"backbone": "test_vit", "num_classes": 5, "image_size": 32, "optimizer": adamw} | more
    return PlantsClassifier(**settings)


@pytest.fixture
def images():
    return torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("backbone", "classes", "parameters"),
    [
        ("vit_base_patch16_224", 5578, 90_088_138),
        ("vit_base_patch16_224", 5914, 90_346_522),
        ("vit_small_patch16_224", 5914, 23_942_554),
    ],
)
def test_the_networks_of_the_brief_have_their_size(backbone, classes, parameters):
    with torch.device("meta"):
        net = PlantsNet(backbone, classes, 224)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


def test_pixels_of_any_number_type_are_normalised_by_the_network(images):
    net = system().net.eval()
    reference = (images.float() / 255 - 0.5) / 0.5  # the mean and deviation of this backbone
    with torch.no_grad():
        assert torch.allclose(net(images), net.model(reference), atol=1e-5)
        assert torch.equal(net(images), net(images.float()))
    assert not [name for name in net.state_dict() if name in ("mean", "std")]


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext", "resnet10t"])
def test_every_parameter_has_a_depth_and_the_head_the_greatest(backbone):
    net = PlantsNet(backbone, 5, 32)
    depth, top = net.depths()
    assert set(depth) == {id(parameter) for parameter in net.model.parameters()}
    heads = {id(p) for name, p in net.model.named_parameters() if name in net.head_names}
    assert len(heads) == 2 and {key for key, place in depth.items() if place == top} >= heads
    assert min(depth.values()) == 0 and top >= 4


def test_layer_decay_gives_each_block_its_rate_and_each_parameter_one_group():
    model = system(layer_decay=0.5)
    groups = model.parameter_groups()
    rates = sorted({group["lr"] for group in groups}, reverse=True)
    top = model.net.depths()[1]
    assert rates == pytest.approx([0.01 * 0.5**below for below in range(top + 1)])
    seen = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(seen) == len(set(seen)) == len(list(model.parameters()))
    head = next(group for group in groups if any(p is model.net.model.head.weight for p in group["params"]))
    assert head["lr"] == 0.01
    biases = next(group for group in groups if any(p is model.net.model.head.bias for p in group["params"]))
    assert biases["weight_decay"] == 0 and biases["lr"] == 0.01
    assert all("lr" not in group for group in system().parameter_groups())


def step(model, images):
    """One training step by hand."""
    model.train()
    optimizer = adamw([p for p in model.parameters() if p.requires_grad])
    torch.nn.functional.cross_entropy(model.net(images), torch.arange(4)).backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("backbone", "head"), [("test_vit", "head"), ("resnet10t", "fc"), ("test_convnext", "head.fc")]
)
def test_a_linear_probe_trains_the_head_and_moves_nothing_else(backbone, head, images):
    model = system(backbone=backbone, frozen="backbone", head_dropout=0.5)
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    trained = {name for name, p in model.net.model.named_parameters() if p.requires_grad}
    assert trained == {f"{head}.weight", f"{head}.bias"}
    step(model, images)
    after = model.net.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {f"model.{n}" for n in trained}
    assert not torch.equal(model.net(images), model.net(images))  # dropout of the head is at work


def test_frozen_blocks_keep_weights_and_statistics(images):
    model = system(backbone="resnet10t", frozen=1)
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    step(model, images)
    changed = {name for name, value in model.net.state_dict().items() if not torch.equal(before[name], value)}
    frozen = {f"model.{name}" for name, p in model.net.model.named_parameters() if not p.requires_grad}
    assert frozen and not frozen & changed
    assert "model.bn1.running_mean" not in changed and "model.layer4.0.bn1.running_mean" in changed
    with pytest.raises(ValueError, match="blocks below its head"):
        system(frozen=99)


@pytest.mark.parametrize("knob", [{"head_dropout": 0.5}, {"drop_path": 0.5}])
def test_dropout_and_stochastic_depth_are_at_work_in_training_only(knob, images):
    net = system(**knob).net
    assert not torch.equal(net(images), net(images))
    net.eval()
    assert torch.equal(net(images), net(images))


def test_channels_last_and_checkpointing_change_no_number(images):
    plain, other = (
        system(backbone="test_convnext"),
        system(backbone="test_convnext", channels_last=True, checkpointing=True),
    )
    assert other.net.model.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    for model in (plain, other):
        model.net(images).square().sum().backward()
    assert torch.allclose(plain.net(images), other.net(images), atol=1e-5)
    one, two = (model.net.model.stem[0].weight.grad for model in (plain, other))
    assert torch.allclose(one, two, atol=1e-4)


# -- where weights come from ------------------------------------------------------------------------------------------


def started(tmp_path, source: PlantsClassifier, suffix: str, **more) -> PlantsClassifier:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": source.state_dict()}, path)
    else:
        save_file({name: value.contiguous() for name, value in source.net.state_dict().items()}, path)
    model = system(init_from=str(path), **more)
    data = SimpleNamespace(indices=lambda part: range(10))
    model._trainer = SimpleNamespace(datamodule=data, ckpt_path=None)  # what a fit sets
    model.on_fit_start()
    return model


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_weights_are_taken_and_a_head_for_other_classes_is_left_out_and_named(tmp_path, suffix):
    torch.manual_seed(1)
    source = PlantsClassifier(backbone="test_vit", num_classes=5, image_size=32, optimizer=adamw)
    model = started(tmp_path, source, suffix)
    assert model.dropped == [] and model.describe()["tensors_left_out"] == []
    assert all(torch.equal(a, b) for a, b in zip(model.net.parameters(), source.net.parameters(), strict=True))
    other = started(tmp_path, source, suffix, num_classes=7)
    assert other.dropped == ["head.bias", "head.weight"]
    assert torch.equal(other.net.model.blocks[0].attn.qkv.weight, source.net.model.blocks[0].attn.qkv.weight)
    anew = started(tmp_path, source, suffix, reset_head=True)
    one, other = anew.net.model.head, source.net.model.head
    assert not one.bias.any() and not torch.equal(one.weight, other.weight)


def test_weights_of_another_network_and_files_that_are_none(tmp_path):
    other = PlantsClassifier(backbone="test_convnext", num_classes=5, image_size=32, optimizer=adamw)
    with pytest.raises(ClassMapError, match="tensors do not fit test_vit at 32 pixels"):
        started(tmp_path, other, ".ckpt")
    (tmp_path / "text.ckpt").write_text("no weights")
    model = system(init_from=str(tmp_path / "text.ckpt"))
    with pytest.raises(ClassMapError, match="cannot be read as weights"):
        model._start_from(model.init_from)


def test_a_resumed_run_does_not_look_for_the_weights_it_started_from():
    model = system(init_from="gone.ckpt")
    data = SimpleNamespace(indices=lambda part: range(10))
    model._trainer = SimpleNamespace(datamodule=data, ckpt_path="runs/plants/x/checkpoints/last.ckpt")
    model.on_fit_start()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"backbone": "vit_of_mine"}, "is no model of timm"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"mix_probability": 1.5}, "mix_probability"),
        ({"cutmix_alpha": -1.0}, "alphas"),
        ({"pretrained": True, "init_from": "x"}, "exclude each other"),
    ],
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        system(**wrong)


# -- mixing -----------------------------------------------------------------------------------------------------------


def test_cutmix_mixes_targets_by_the_area_that_is_covered():
    image = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 20, 20).clone()
    y = torch.tensor([0, 1, 2, -1])
    for seed in range(5):
        inputs, target = cutmix(image, y, 3, 1.0, np.random.default_rng(seed))
        for i in range(3):
            own = (inputs["image"][i, 0] == i).float().mean()
            assert target[i, i] == pytest.approx(float(own), abs=1e-5) and target[i].sum() == pytest.approx(1)
        assert not target[3].any() and (inputs["image"][3] == 3).all()  # without a label: unchanged, lends nothing
        assert not (inputs["image"][:3] == 3).any()


def test_a_batch_is_mixed_by_one_of_both_or_not_at_all():
    batch = {"image": torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8), "y": torch.arange(6) % 5}
    model = system(mixup_alpha=0.8, cutmix_alpha=1.0, mix_probability=0.5)
    kinds = {"plain": 0, "mixup": 0, "cutmix": 0}
    for seed in range(60):
        inputs, target = model.mix({"image": batch["image"]}, batch, np.random.default_rng(seed))
        assert torch.allclose(target.sum(1), torch.ones(6))
        if inputs["image"].dtype == torch.uint8:
            kinds["plain"] += 1
            continue
        found = (inputs["image"][:, None] == batch["image"].float()).all(2).any(1)  # each pixel is somebody's own
        kinds["cutmix" if found.all() else "mixup"] += 1
    assert 20 <= kinds["plain"] <= 40 and min(kinds.values()) >= 6
    assert not system().mixes and not system(mixup_alpha=1.0, mix_probability=0.0).mixes


@pytest.mark.slow
def test_planted_species_are_learnt_and_a_second_stage_trains_the_head_alone():
    """A small network, then the second stage of decoupled training on its features."""
    words = ["--data.synthetic_samples", "420", "--data.synthetic_species", "8", "--data.simple_models", "false"]
    words += ["--model.backbone", "test_resnet", "--trainer.max_epochs", "16"]
    run(["fit", *words, "--name", "first"], system="plants")
    first = json.loads(Path("runs/plants/first/fit/metrics.json").read_text(encoding="utf-8"))
    majority = first["baselines"]["majority"]["values"]
    assert first["values"]["accuracy"] > majority["accuracy"] + 0.25
    assert first["values"]["macro_f1"] > majority["macro_f1"] + 0.2

    stage = ["--model.init_from", "runs/plants/first/checkpoints/best.ckpt", "--model.frozen", "backbone"]
    stage += ["--model.reset_head", "true", "--data.balanced", "true", "--trainer.max_epochs", "8"]
    run(["fit", *words, *stage, "--name", "second"], system="plants")
    one, two = (load_file(f"runs/plants/{name}/weights.safetensors") for name in ("first", "second"))
    assert {name for name in one if not torch.equal(one[name], two[name])} == {"model.fc.weight", "model.fc.bias"}
    second = json.loads(Path("runs/plants/second/fit/metrics.json").read_text(encoding="utf-8"))
    assert second["values"]["accuracy"] > majority["accuracy"] + 0.15


# -- weights that set in late -----------------------------------------------------------------------------------------


def test_deferred_weights_are_the_effective_numbers_and_set_in_at_their_epoch():
    counts, logits, y = torch.tensor([100, 10, 1]), torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 1, 2])
    loss = Deferred(start=2, beta=0.99)
    loss.use_counts(counts)
    plain = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    loss.on_epoch(1)
    assert torch.allclose(loss(logits, y), plain)
    assert loss.expected_at_init(3) == pytest.approx(np.log(3))
    loss.on_epoch(2)
    effective = (1 - 0.99 ** counts.numpy().astype(float)) / 0.01
    weights = 1 / effective
    weights *= 111 / (weights * counts.numpy()).sum()
    assert torch.allclose(loss(logits, y), plain * torch.tensor(weights)[y].float(), atol=1e-5)
    soft = loss(logits, torch.nn.functional.one_hot(y, 3).float())
    assert torch.allclose(soft, loss(logits, y), atol=1e-5)
    with pytest.raises(ValueError, match="each class"):
        loss.use_counts(torch.tensor([3, 0]))
    with pytest.raises(ValueError, match="beta"):
        Deferred(start=0, beta=1.0)
