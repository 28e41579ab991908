"""The system of `papers`: each setting does something, each form trains and is judged, runs are rebuilt from a file."""

import copy
import json
import shutil
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional

from callbacks.probes import Probes
from modules.base import ClassMapError
from modules.classifier import logits_of
from modules.losses import CrossEntropy
from modules.losses_catalogue import Dice, FocalAlpha, LabelDistribution, MultiLabel
from modules.nets.papers_encoder import CachedStates, Encoder, PretrainedEncoder, SmallEncoder, UpperLayers, Vectors
from modules.nets.papers_encoder import random_model as make_bert
from modules.nets.papers_tuning import LowRank
from modules.optim import WarmupLinear
from modules.papers import Auxiliary, PapersClassifier
from modules.tuning import Tuning
from tests.fake_data.papers_tensors import CLASSES, CROSSLISTS, VOCAB, WIDTH, PaperTensors
from tests.running import run

TINY = {"model_type": "bert", "vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": 3}
TINY |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}


def encoder() -> Encoder:
    return SmallEncoder(WIDTH, 2, 2, 32, 0.1, 64)


def system(**changes: object) -> PapersClassifier:
    torch.manual_seed(0)
    settings = {"optimizer": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01), "encoder": encoder()}
    return PapersClassifier(**(settings | {"head": (12, 8), "block": 3, "cross_heads": 2} | changes))


class Fixed(pl.Callback):
    """The split of a tiny set."""

    def setup(self, trainer, pl_module, stage):
        data = trainer.datamodule
        if data.table is None:
            parts = ["train"] * 36 + ["val"] * 12 + ["test"] * 12
            data.apply_split(data.records.drop(columns="given").assign(part=parts))


def fitted(model: PapersClassifier, data: PaperTensors | None = None, epochs: int = 1) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[Fixed(), Probes()],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        devices=1,
        **quiet,
    )
    pl.seed_everything(0, verbose=False)
    trainer.fit(model, data or PaperTensors())
    return trainer


def weights(model: PapersClassifier) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.net.head.parameters()])


def ready(model: PapersClassifier, **data: object) -> PapersClassifier:
    """Give a system the sizes of the data and build it, without a fit."""
    tensors = PaperTensors(**data)
    sizes = {name: getattr(tensors, name) for name in model.SIZES if name != "num_classes"}
    model.hparams.update(sizes | {"num_classes": len(CLASSES)})
    model.build_if_known()
    return model


FORMS = {
    "tokens": ({}, {}),
    "single": ({"encoding": "single"}, {"form": "single"}),
    "separate": ({"encoding": "separate", "cross": "two_way", "pooling": "hierarchical"}, {}),
    "states": ({"encoder": CachedStates()}, {"form": "states"}),
    "vectors": ({"encoder": Vectors(), "pooling": "mean"}, {"form": "vectors"}),
    "graph": ({"encoder": CachedStates(), "mixup_alpha": 0.2}, {"form": "states", "keywords": 5, "terms": 4}),
    "lora": ({"tuning": Tuning(lora_rank=2)}, {}),
}


@pytest.mark.parametrize(("settings", "data"), FORMS.values(), ids=FORMS)
def test_each_form_passes_the_probes_and_is_logged(settings, data):
    settings = settings | ({"block": 2} if settings.get("pooling") == "hierarchical" else {})
    model = system(**settings)
    trainer = fitted(model, PaperTensors(**data), 2)
    assert {"train/loss", "train/accuracy", "val/loss", "val/nll", "val/macro_f1"} <= set(trainer.callback_metrics)
    probes = next(callback for callback in trainer.callbacks if isinstance(callback, Probes))
    passed = {row["name"]: row["passed"] for row in probes.results}
    assert passed["gradients"] and passed["batch_order"] and passed["batch_size"] and passed["initial_loss"]
    assert passed["padding"] is (None if data.get("form") == "vectors" else True)
    json.dumps(model.describe())


def test_the_planted_structure_is_learnt():
    model = system(encoder=CachedStates(), pooling="mean")
    trainer = fitted(model, PaperTensors("states"), 12)
    assert float(trainer.callback_metrics["val/accuracy"]) > 0.9


@pytest.mark.parametrize(
    "change",
    [
        {"loss": FocalAlpha(3.0, gamma_end=0.0, epochs=2)},
        {"loss": Dice()},
        {"mixup_alpha": 0.4},
        {"dropout": 0.0},
        {"encoder_dropout": 0.4},
        {"tuning": Tuning(frozen_layers=[2])},
        {"tuning": Tuning(frozen_embeddings=True)},
        {"tuning": Tuning(head_lr_ratio=1.0)},
        {"tuning": Tuning(head_decay_ratio=900.0)},
        {"tuning": Tuning(layer_decay=0.3)},
        {"tuning": Tuning(lora_rank=2)},
        {"schedule": partial(WarmupLinear, warmup_share=0.3)},
        {"auxiliary": Auxiliary(learning=0.5)},
    ],
    ids=lambda change: str(next(iter(change.values())))[:60],
)
def test_every_setting_changes_what_is_trained(change):
    found = []
    for changes in ({}, change):
        model = system(**changes)
        fitted(model, PaperTensors(auxiliary=True, samples=60), 1)
        found.append(torch.cat([weights(model), model.net.encoders[0](*tokens()).detach().flatten()]))
    assert found[0].shape != found[1].shape or not torch.allclose(*found, atol=1e-7)


def tokens():
    return torch.arange(12).view(2, 6), torch.ones(2, 6, dtype=torch.bool)


# groups of the optimizer


def groups_of(model: PapersClassifier) -> dict:
    groups = model.parameter_groups()
    listed = [id(p) for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters() if p.requires_grad}
    return {group["name"]: group for group in groups}


def numbers(group: dict) -> int:
    return sum(p.numel() for p in group["params"])


def test_embeddings_learn_at_the_rate_of_the_encoder_and_the_head_at_its_own():
    model = ready(system(tuning=Tuning(head_lr_ratio=5.0, head_decay_ratio=2.0)))
    groups = groups_of(model)
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "encoder_decay": (1e-3, 0.01),
        "encoder_no_decay": (1e-3, 0.0),
        "head_decay": (5e-3, 0.02),
        "head_no_decay": (5e-3, 0.0),
    }
    bert = model.net.encoders[0].model
    spared = {id(p) for p in groups["encoder_no_decay"]["params"]}
    assert all(id(p) in spared for p in bert.embeddings.parameters())  # the brief had them at five times the rate
    assert numbers(groups["encoder_decay"]) == 2 * (4 * WIDTH * WIDTH + 2 * 32 * WIDTH)
    biases = 2 * (4 * WIDTH + 32 + WIDTH + 4 * WIDTH)
    assert numbers(groups["encoder_no_decay"]) == (VOCAB + 64 + 2 + 2) * WIDTH + biases
    assert numbers(groups["head_decay"]) == 2 * WIDTH * 12 + 12 * 8 + 8 * 3 + 2 * WIDTH
    assert numbers(groups["head_no_decay"]) == 3 * (12 + 8) + 3


def test_layers_learn_slower_the_lower_they_lie():
    groups = groups_of(ready(system(tuning=Tuning(layer_decay=0.5, frozen_layers=[1]))))
    rates = {name: group["lr"] for name, group in groups.items() if not name.startswith("head")}
    # the top layer, and the embeddings two steps below it; the layer between is frozen
    assert rates == {"encoder_0_decay": 1e-3, "encoder_0_no_decay": 1e-3, "encoder_2_no_decay": 0.25e-3}


def test_adapters_are_new_and_the_rest_of_the_encoder_is_in_no_group():
    model = ready(system(tuning=Tuning(lora_rank=2)))
    groups = groups_of(model)
    assert set(groups) == {"head_decay", "head_no_decay"}
    adapted = [module for module in model.net.modules() if isinstance(module, LowRank)]
    assert len(adapted) == 4
    inside = {id(p) for p in groups["head_decay"]["params"]}
    assert all(id(module.down) in inside and id(module.up) in inside for module in adapted)


def test_decay_all_decays_norms_and_embeddings():
    assert set(groups_of(ready(system(decay_all=True)))) == {"encoder_decay", "head_decay"}


def test_separate_encoders_freeze_each_to_its_own_depth():
    model = ready(system(encoding="separate", tuning=Tuning(frozen_layers=[0, 2])))
    title, abstract = model.net.encoders
    assert [any(p.requires_grad for p in layer.parameters()) for layer in title.layers] == [True, True]
    assert [any(p.requires_grad for p in layer.parameters()) for layer in abstract.layers] == [False, False]
    assert not torch.equal(
        title.model.embeddings.word_embeddings.weight, abstract.model.embeddings.word_embeddings.weight
    )
    groups_of(model)


@pytest.mark.parametrize(
    "settings",
    [{"frozen_layers": []}, {"frozen_layers": [-1]}, {"lora_rank": -1}, {"head_lr_ratio": 0.0}, {"layer_decay": 1.5}],
)
def test_impossible_tuning_is_refused(settings):
    with pytest.raises(ValueError, match="need"):
        Tuning(**settings)
    with pytest.raises(ValueError, match="one for each of 1 encoders"):
        ready(system(tuning=Tuning(frozen_layers=[0, 1])))
    with pytest.raises(ValueError, match="at least 0"):
        Auxiliary(length=-1.0)


# further tasks, several labels, mixup


def test_further_tasks_add_their_weighted_means_and_are_logged():
    auxiliary = Auxiliary(crosslist=0.5, learning=0.3, length=0.2)
    model = ready(system(auxiliary=auxiliary), auxiliary=True)
    data = PaperTensors(auxiliary=True)
    data.records = data.read_records()
    Fixed().setup(type("Trainer", (), {"datamodule": data}), model, "fit")
    batch = data.probe_batch(6)
    model.eval()
    outputs = model.net(**model.net_inputs(batch))
    assert outputs["crosslist"].shape == (6, CROSSLISTS)
    main = model.loss(outputs["logits"], batch["y"])
    total = main + 0.5 * functional.binary_cross_entropy_with_logits(
        outputs["crosslist"], batch["y_crosslist"], reduction="none"
    ).mean(1)
    total = total + 0.3 * functional.binary_cross_entropy_with_logits(
        outputs["learning"].squeeze(1), batch["y_learning"], reduction="none"
    )
    total = total + 0.2 * (outputs["length"].squeeze(1) - batch["y_length"]) ** 2
    torch.testing.assert_close(model.training_step(batch, 0), total.mean())
    torch.testing.assert_close(model.train_loss.compute(), main.mean())
    assert {name: float(mean.compute()) > 0 for name, mean in model.train_auxiliary.items()} == dict.fromkeys(
        ("crosslist", "learning", "length"), True
    )
    trainer = fitted(system(auxiliary=auxiliary), PaperTensors(auxiliary=True))
    assert {"train/aux_crosslist", "train/aux_learning", "train/aux_length"} <= set(trainer.callback_metrics)


def test_heads_of_tasks_without_a_weight_are_not_there():
    assert list(ready(system(auxiliary=Auxiliary(length=0.1)), auxiliary=True).net.auxiliary) == ["length"]
    assert isinstance(logits_of(ready(system()).net(**PapersInputs())), torch.Tensor)


def PapersInputs():
    ids, mask = tokens()
    return {"title_ids": ids, "title_mask": mask, "abstract_ids": ids, "abstract_mask": mask}


def test_several_labels_are_trained_on_and_give_shares():
    model = system(loss=MultiLabel(), mixup_alpha=0.2)
    trainer = fitted(model, PaperTensors(labels="multi"))
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(0.69, abs=0.1)
    logits = torch.tensor([[2.0, 0.0, -9.0]])
    share = logits.sigmoid() / logits.sigmoid().sum()
    torch.testing.assert_close(model.scores(logits).softmax(1), share)
    batch = {"y": torch.tensor([0, -1]), "y_labels": torch.ones(2, 3)}
    assert model.target(batch).tolist() == [[1, 1, 1], [0, 0, 0]]
    other = ready(system())
    torch.testing.assert_close(other.scores(logits), logits)
    assert other.target(batch).tolist() == [0, -1]


def test_mixup_pairs_fused_vectors_and_never_a_paper_without_a_label():
    model = ready(system(mixup_alpha=0.4))
    batch = {"y": torch.tensor([0, 1, 2, -1])}
    inputs, target = model.mix({"title_ids": torch.zeros(4, 2)}, batch, np.random.default_rng(0))
    pairs, share = inputs["mix_pairs"], inputs["mix_share"]
    assert sorted(pairs.tolist()) == [0, 1, 2, 3]
    hot = torch.cat([torch.eye(3), torch.zeros(1, 3)])
    torch.testing.assert_close(target, share[:, None] * hot + (1 - share[:, None]) * hot[pairs])
    assert share[3] == 1 and share[pairs == 3].eq(1).all()
    assert ((share > 0) & (share < 1)).any()
    again, _ = model.mix({}, batch, np.random.default_rng(0))
    torch.testing.assert_close(again["mix_share"], share)


# data that do not fit


@pytest.mark.parametrize(
    ("settings", "data", "message"),
    [
        ({"encoder": Vectors(), "pooling": "mean"}, {}, "Vectors reads vectors, but the data give tokens"),
        ({}, {"form": "states"}, "SmallEncoder reads tokens, but the data give cached input, 16 wide"),
        ({"auxiliary": Auxiliary(learning=0.1)}, {}, "need data.auxiliary: true"),
        ({"loss": MultiLabel()}, {}, "go together"),
        ({}, {"labels": "multi"}, "go together"),
        ({"vocab_size": 7}, {}, "model.vocab_size is 7, but the data have 40"),
    ],
)
def test_data_that_do_not_fit_are_refused(settings, data, message):
    with pytest.raises((ClassMapError, ValueError), match=message):
        fitted(system(**settings), PaperTensors(**data))


def test_states_of_another_layer_are_refused():
    data = PaperTensors("states")
    data.states = type("States", (), {"layer": 2})()
    with pytest.raises(ClassMapError, match="went through 2 layers, the encoder goes on after layer 1"):
        fitted(system(encoder=UpperLayers("nowhere", 1)), data)


@pytest.mark.parametrize("given", [None, "another"])
def test_an_encoder_is_not_fed_with_the_ids_of_another_tokenizer(given):
    """A smaller vocabulary fits every table of embeddings, and means nothing to it."""
    data = PaperTensors()
    data.tokenizer = given
    with pytest.raises(ClassMapError, match=f"the encoder is scibert, but the data were made for {given}"):
        fitted(system(encoder=PretrainedEncoder("scibert"), vocab_size=40), data)


# the command line


def config(folder, model: dict, data: dict, **more: object) -> list[str]:
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "weight_decay": 0.01}}
    schedule = {"class_path": "modules.optim.WarmupLinear", "init_args": {"warmup_share": 0.1}}
    settings = {"optimizer": optimizer, "schedule": schedule, "head": [12, 8]} | model
    written = {
        "seed_everything": 0,
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1},
        "model": {"class_path": "modules.papers.PapersClassifier", "init_args": settings},
        "data": {"class_path": "tests.fake_data.papers_tensors.PaperTensors", "init_args": data},
        "split": {"train": 0.6, "val": 0.2, "calib": 0.0, "test": 0.2},
        "report": {"baselines": False},
    }
    path = folder / "papers.yaml"
    path.write_text(yaml.safe_dump(written | more), encoding="utf-8")
    return ["--config", str(path)]


@pytest.mark.filterwarnings("ignore:Attribute 'loss' is an instance of `nn.Module`")  # when reloaded without data
@pytest.mark.parametrize(
    ("name", "model", "data"),
    [
        ("PretrainedEncoder", {"tuning": {"frozen_layers": [1]}}, {"form": "tokens", "auxiliary": True}),
        ("UpperLayers", {"loss": {"class_path": "modules.losses_catalogue.Dice"}}, {"form": "states"}),
    ],
)
def test_a_run_is_rebuilt_from_its_checkpoint_without_data_or_encoder(tmp_path, name, model, data):
    torch.manual_seed(0)
    make_bert(TINY).save_pretrained(tmp_path / "bert")
    spec = {"class_path": f"modules.nets.papers_encoder.{name}", "init_args": {"source": str(tmp_path / "bert")}}
    if name == "UpperLayers":
        spec["init_args"]["layer"] = 2
    else:
        model = model | {"auxiliary": {"learning": 0.3}}
    run(["fit", "--name", "a", *config(tmp_path, model | {"encoder": spec}, data)], config=False)
    shutil.move(tmp_path / "bert", tmp_path / "gone")
    checkpoint = "runs/papers/a/checkpoints/best.ckpt"
    stored = torch.load(checkpoint, weights_only=True)
    assert str(tmp_path) not in stored["hyper_parameters"]["encoder_config"]
    for weights_only in (True, None):
        loaded = PapersClassifier.load_from_checkpoint(checkpoint, weights_only=weights_only)
        assert loaded.class_names == CLASSES
        assert {
            key: bool(torch.equal(value, stored["state_dict"][key])) for key, value in loaded.state_dict().items()
        } == (dict.fromkeys(stored["state_dict"], True))
    frozen = [name for name, p in loaded.named_parameters() if not p.requires_grad and "pools" not in name]
    assert bool(frozen) is (name == "PretrainedEncoder")
    run(["test", "--ckpt_path", checkpoint], config=False)  # the folder is still gone


def test_settings_of_the_parts_can_be_overridden_word_by_word(tmp_path):
    words = config(tmp_path, {"encoder": {"class_path": "modules.nets.papers_encoder.SmallEncoder"}}, {})
    tiny = [f"--model.init_args.encoder.{key}={value}" for key, value in (("width", 16), ("heads", 2), ("ffn", 32))]
    more = ["--model.init_args.tuning.lora_rank=2", "--model.init_args.tuning.head_lr_ratio=3"]
    run(["fit", "--name", "b", *words, *tiny, *more, "--model.init_args.auxiliary.length=0"], config=False)
    kept = yaml.safe_load(Path("runs/papers/b/config.yaml").read_text(encoding="utf-8"))["model"]["init_args"]
    assert kept["tuning"]["lora_rank"] == 2 and kept["tuning"]["head_lr_ratio"] == 3
    assert kept["encoder"]["init_args"]["width"] == 16


def test_the_loss_hears_each_epoch():
    model = system(encoder=CachedStates(), loss=FocalAlpha(3.0, gamma_end=1.0, epochs=3))
    fitted(model, PaperTensors("states"), 2)
    assert model.loss.gamma == 2.0


def test_hand_built_parts_are_plain():
    model = ready(system(encoder=CachedStates()), form="states")
    assert isinstance(model.loss, CrossEntropy) and model.loss.label_smoothing == 0.1
    assert isinstance(copy.deepcopy(model.net), nn.Module)


def test_a_prior_shift_moves_decisions_and_not_the_weights():
    """Scores lose the shift times the log share of each class; what is trained is the same."""
    plain, shifted = system(), system(prior_shift=0.5)
    for model in (plain, shifted):
        fitted(model)
    torch.testing.assert_close(weights(shifted), weights(plain), rtol=0, atol=0)
    counts = torch.as_tensor(shifted.trainer.datamodule.class_counts("train")).float()
    torch.testing.assert_close(shifted.state_dict()["log_share"], (counts / counts.sum()).log())
    shares = torch.tensor([0.7, 0.2, *[0.1 / (len(CLASSES) - 2)] * (len(CLASSES) - 2)])
    shifted.log_share.copy_(shares.log())
    logits = torch.randn(5, len(CLASSES))
    expected = logits.softmax(1) * shares**-0.5
    torch.testing.assert_close(shifted.scores(logits).softmax(1), expected / expected.sum(1, keepdim=True))
    torch.testing.assert_close(plain.scores(logits), logits)


def test_the_loss_is_told_what_the_run_is_judged_on():
    model = system(loss=LabelDistribution([[1.0, 0.2, 0.1], [0.2, 1.0, 0.1], [0.1, 0.1, 1.0]]))
    data = PaperTensors()
    fitted(model, data)
    held = {data.records["id"][i] for part in ("val", "test") for i in data.indices(part)}
    assert model.loss.held_out == held and len(held) == 24


@pytest.mark.parametrize(
    ("kind", "own"), [("albert", {"embedding_size": 8}), ("xlnet", {"d_inner": 32, "d_head": 8}), ("distilbert", {})]
)
def test_encoders_of_other_families_are_trained_whole_and_by_layer(kind, own, tmp_path):
    sizes = {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {} if kind == "xlnet" else {"intermediate_size": 32, "max_position_embeddings": 64}
    shape = {"model_type": kind, **sizes, **own}
    (tmp_path / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    spec = PretrainedEncoder(str(tmp_path), random_weights=True)
    model = system(encoder=spec, tuning=Tuning(layer_decay=0.5))
    trainer = fitted(model, PaperTensors())
    probes = next(callback for callback in trainer.callbacks if isinstance(callback, Probes))
    assert all(row["passed"] for row in probes.results), probes.results
    rates = {name: group["lr"] for name, group in groups_of(model).items()}
    assert rates["encoder_0_decay"] == 1e-3 and min(rates.values()) < 1e-3


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"title": 8, "abstract": 65},
            "abstract: a text may have 65 tokens, the encoder has places for 64: set data.abstract_len",
        ),
        ({"text": 65}, "set title_len and abstract_len together"),
        ({"title": 64, "abstract": 64}, None),
    ],
)
def test_texts_longer_than_the_encoder_has_places_for_are_refused(limits, message):
    data = PaperTensors("single" if "text" in limits else "tokens")
    data.limits = limits
    model = system(encoding="single" if "text" in limits else "shared")
    if message is None:
        fitted(model, data)
        return
    with pytest.raises(ClassMapError, match=message):
        fitted(model, data)
