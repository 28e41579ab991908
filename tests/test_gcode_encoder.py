"""`gcode_encoder`: sizes of the brief, noise that belongs to a window, missing channels, the reconstruction, mixup."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from modules.gcode_encoder import GcodeEncoder
from modules.keyed import keyed_normal
from modules.nets.gcode_encoder import build_encoder

SIZES = {"input_dim": 155, "num_classes": 9, "categories": (6, 3, 3, 4)}
SMALL = {"input_dim": 7, "num_classes": 3, "categories": [3, 2, 2, 2]}
ARCHITECTURES = ("brief", "trained", "strong")


def inputs(rows=6, length=8, channels=7, categories=(3, 2, 2, 2), seed=0):
    made = torch.Generator().manual_seed(seed)
    columns = [torch.randint(size, (rows, length), generator=made) for size in categories]
    present = torch.rand(rows, channels, generator=made) > 0.3
    present[:, 0] = True
    return {
        "continuous": torch.randn(rows, length, channels, generator=made),
        "present": present,
        "categorical": torch.stack(columns, 2),
    }


def batch(rows=6, **more):
    return inputs(rows, **more) | {"y": torch.arange(rows) % 3, "id": torch.arange(rows) + 40,
                                   "weight": torch.full((rows,), 1 / rows)}  # fmt: skip


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def system(**settings):
    made = GcodeEncoder(optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1), **SMALL, **settings)
    made.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    return made.train()


@pytest.mark.parametrize(
    ("architecture", "reconstruction", "expected"),
    [("brief", False, 222_537), ("brief", True, 242_532), ("trained", False, 2_754_058), ("trained", True, 3_945_893)],
)
def test_the_brief_s_networks_have_their_parameter_counts(architecture, reconstruction, expected):
    net = build_encoder(architecture, **SIZES, reconstruction=reconstruction)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected
    learned = build_encoder(architecture, **SIZES, reconstruction=reconstruction, missing="learned")
    assert sum(parameter.numel() for parameter in learned.parameters()) == expected + 155


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_window_becomes_a_memory_an_operation_and_itself(architecture):
    net = build_encoder(architecture, **SMALL, width=16).eval()
    out = net(**inputs())
    memory, logits = net.encode(**inputs())
    assert torch.equal(memory, out["memory"]) and torch.equal(logits, out["logits"])
    assert memory.shape == (6, 8, net.memory_dim) and logits.shape == (6, 3)
    assert out["reconstruction"].shape == (6, 8, 7) and out["error"].shape == (6,)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("missing", ["learned", "zeros"])
def test_what_stands_in_a_missing_channel_does_not_matter(architecture, missing):
    net = build_encoder(architecture, **SMALL, width=16, missing=missing).eval()
    given = inputs()
    other = given | {"continuous": given["continuous"].masked_fill(~given["present"][:, None], 1e6)}
    with torch.no_grad():
        found, expected = net(**other), net(**given)
    for name in ("memory", "logits", "error"):
        assert torch.equal(found[name], expected[name]), name


def test_a_learned_value_takes_the_place_of_a_missing_channel_and_is_learnt():
    net = build_encoder("brief", **SMALL, width=16, missing="learned")
    given = inputs() | {"present": torch.ones(6, 7, dtype=torch.bool)}
    given["present"][2, 4] = False
    net(**given)["logits"].sum().backward()
    touched = net.fill.value.grad != 0
    assert touched.tolist() == [False] * 4 + [True] + [False] * 2
    put = given | {"continuous": given["continuous"].clone(), "present": torch.ones(6, 7, dtype=torch.bool)}
    put["continuous"][2, :, 4] = net.fill.value.detach()[4]
    torch.testing.assert_close(net(**put)["logits"], net(**given)["logits"])


def test_the_error_is_the_mean_over_the_channels_that_are_there():
    net, given = build_encoder("brief", **SMALL, width=16), inputs()
    out = net(**given)
    for row in range(6):
        real = given["present"][row]
        gap = (out["reconstruction"][row] - given["continuous"][row])[:, real]
        torch.testing.assert_close(out["error"][row], gap.square().mean())


def test_categorical_columns_count_in_the_brief_s_network_and_not_in_the_trained_one():
    given = inputs()
    other = given | {"categorical": torch.zeros_like(given["categorical"])}
    for name, same in (("brief", False), ("strong", False), ("trained", True)):
        net = build_encoder(name, **SMALL, width=16).eval()
        assert torch.equal(net(**given)["logits"], net(**other)["logits"]) is same, name


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"architecture": "big"}, "brief, trained or strong"), ({"missing": "mean"}, "learned or zeros"),
     ({"width": 7}, "even"), ({"architecture": "trained", "head_width": 8}, "belong to architecture: brief")],
)  # fmt: skip
def test_a_network_that_cannot_be_built_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        build_encoder(**({"architecture": "brief"} | SMALL | settings))


def test_noise_belongs_to_a_window_its_epoch_and_the_seed():
    keys = torch.arange(300)
    made = keyed_normal(keys, (8, 7), 0, 1)
    assert torch.equal(keyed_normal(keys[[9, 200]], (8, 7), 0, 1), made[[9, 200]])
    for other in (keyed_normal(keys, (8, 7), 0, 2), keyed_normal(keys, (8, 7), 1, 1), keyed_normal(keys, (8, 7), 1, 0)):
        assert not (other == made).any()
    assert made.mean().abs() < 0.03 and abs(made.std() - 1) < 0.03 and abs(made.pow(4).mean() - 3) < 0.2
    assert keyed_normal(keys, (3,)).shape == (300, 3)  # an odd number of numbers


def test_noise_is_added_in_training_only_and_the_clean_window_is_the_aim():
    model, given = system(noise=0.5, width=16), batch()
    noise = model.net_inputs(given)["noise"]
    assert torch.equal(noise, 0.5 * keyed_normal(given["id"], (8, 7), 0, 0))
    noisy = model.net(**model.net_inputs(given))
    by_hand = model.net.encode(given["continuous"] + noise, given["present"], given["categorical"])
    assert torch.equal(noisy["logits"], by_hand[1])
    gap = (noisy["reconstruction"] - given["continuous"]).square().mean(1)
    torch.testing.assert_close(noisy["error"], (gap * given["present"]).sum(1) / given["present"].sum(1))
    assert "noise" not in system(noise=0.0, width=16).net_inputs(given)
    assert "noise" not in model.eval().net_inputs(given)


def test_the_loss_is_that_of_the_operation_and_the_weighted_error():
    given = batch()
    for weight in (0.0, 0.3, 2.0):
        torch.manual_seed(0)
        model = system(reconstruction=weight, width=16)
        out = model.net(**model.net_inputs(given))
        expected = (model.loss(out["logits"], given["y"]) + weight * out.get("error", 0.0)).mean()
        torch.testing.assert_close(model.training_step(given, 0), expected)
        assert ("error" in out) is (weight > 0)
        assert ("anomaly" in model.eval().predict_step(given, 0)) is (weight > 0)


def test_the_anomaly_is_the_error_without_noise():
    model, given = system(width=16).eval(), batch()
    for step in (model.validation_step, model.test_step, model.predict_step):
        torch.testing.assert_close(step(given, 0)["anomaly"], model.net(**inputs())["error"])


def test_mixup_mixes_channels_and_takes_the_rest_from_the_larger_share():
    model, given = system(mixup_alpha=0.4, noise=0.0), batch()
    mixed, target = model.mix(model.net_inputs(given), given, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    pairs, share = torch.from_numpy(rng.permutation(6)), float(rng.beta(0.4, 0.4))
    x = given["continuous"]
    torch.testing.assert_close(mixed["continuous"], share * x + (1 - share) * x[pairs])
    owner = torch.arange(6) if share >= 0.5 else pairs
    assert torch.equal(mixed["present"], given["present"][owner])
    assert torch.equal(mixed["categorical"], given["categorical"][owner])
    torch.testing.assert_close(target.sum(1), torch.ones(6))
    assert torch.isfinite(model.training_step(given, 0))


def test_sizes_of_categories_are_compared_as_a_whole():
    model = system()
    assert model.size_fits("categories", [3, 2, 2, 2], (3, 2, 2, 2))
    assert not model.size_fits("categories", [3, 2, 2, 2], (3, 2, 2, 3))
    assert model.size_fits("input_dim", 7, 7) and not model.size_fits("input_dim", 7, 8)


@pytest.mark.parametrize("wrong", [{"noise": -0.1}, {"reconstruction": -1.0}])
def test_settings_below_0_are_refused(wrong):
    with pytest.raises(ValueError, match="below 0"):
        system(**wrong)


def test_what_the_report_says_is_what_the_network_is():
    found = system(architecture="strong", width=16, dropout=0.2).describe()
    assert found["architecture"] == "StrongEncoder" and found["memory_dim"] == 16
    assert found["categories"] == [3, 2, 2, 2] and found["dropout"] == 0.2


def test_dropout_before_the_lstm_and_a_wider_head_act():
    plain = build_encoder("brief", **SMALL, width=16)
    wide = build_encoder("brief", **SMALL, width=16, head_width=8)
    assert count(wide) - count(plain) == (16 * 8 + 8 + 16 + 8 * 3 + 3) - (16 * 3 + 3)
    torch.manual_seed(0)
    dropped = build_encoder("brief", **SMALL, width=16, input_dropout=0.5)
    first, second = (dropped.train().encode(**inputs())[0] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(*(dropped.eval().encode(**inputs())[0] for _ in range(2)))
