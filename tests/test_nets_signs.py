"""The networks of `signs`: sizes, masks, and that every knob does something."""

import copy

import pytest
import torch
from torch import Tensor, nn

from modules.nets.signs import EncoderBlock, SignTransformer
from modules.nets.signs_streams import MaskedBatchNorm, SignStreams


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def transformer(**changes: object) -> SignTransformer:
    torch.manual_seed(0)
    sizes = {
        "input_dim": 12,
        "num_classes": 5,
        "max_len": 24,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "ffn": 32,
        "head_width": 8,
    }
    return SignTransformer(**(sizes | changes)).eval()


def streams(**changes: object) -> SignStreams:
    torch.manual_seed(0)
    sizes = {"input_dim": 12, "num_classes": 5, "max_len": 24, "width": 8, "stages": (8, 12, 16), "heads": 2}
    net = SignStreams(**(sizes | changes))
    # running statistics of real batches, so that batch norm is not the identity
    for _ in range(20):
        net(torch.randn(4, 24, 12) * 2 + 1, torch.ones(4, 24, dtype=torch.bool))
    return net.eval()


NETS = pytest.mark.parametrize(
    "build",
    [
        transformer,
        streams,
        lambda: streams(members=3, depth=0),
        lambda: transformer(pooling="attention", positions="sinusoidal"),
    ],
    ids=["transformer", "streams", "members", "attention-pool"],
)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    lengths = torch.tensor([20, 13, 1, 7])
    return torch.randn(4, 20, 12), torch.arange(20) < lengths[:, None]


def test_brief_has_exactly_its_parameters() -> None:
    net = SignTransformer(input_dim=128, num_classes=30)
    assert count(net) == 2_203_294
    assert count(net.input) == 33_024
    assert count(net.positions) == 24_576
    assert [count(block) for block in net.blocks] == [527_104] * 4
    assert count(net.norm) == 512
    assert count(net.head) == 32_896 + 3_870
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(("input_dim", "max_len", "wanted"), [(300, 96, 2_247_326), (300, 12, 2_225_822)])
def test_other_inputs_have_the_sizes_of_the_origin(input_dim: int, max_len: int, wanted: int) -> None:
    assert count(SignTransformer(input_dim, 30, max_len=max_len)) == wanted


def test_encoder_block_equals_torch_layer(batch: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    ours = EncoderBlock(12, 3, 20, 0.1).eval()
    theirs = nn.TransformerEncoderLayer(12, 3, 20, 0.1, activation="gelu", batch_first=True, norm_first=True).eval()
    state = {k: v for k, v in theirs.state_dict().items()}
    names = {
        "self_attn.in_proj_": "qkv.", "self_attn.out_proj.": "out.", "linear1.": "ff1.", "linear2.": "ff2.",
        "norm1.": "norm1.", "norm2.": "norm2.",
    }  # fmt: skip
    ours.load_state_dict(
        {new + k.removeprefix(old): v for k, v in state.items() for old, new in names.items() if k.startswith(old)}
    )
    x, mask = batch
    wanted = theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask[:, None, None])[mask], wanted[mask], atol=1e-5, rtol=1e-5)


@NETS
def test_padding_never_changes_logits(build, batch: tuple[Tensor, Tensor]) -> None:
    net, (x, mask) = build(), batch
    with torch.no_grad():
        wanted = net(x, mask)
        for filler in (1e4, float("nan")):
            torch.testing.assert_close(net(x.masked_fill(~mask[..., None], filler), mask), wanted, atol=1e-5, rtol=0)
        # more padding, and each sample alone without any
        wide = torch.cat([x, torch.randn(4, 3, 12)], 1)
        torch.testing.assert_close(net(wide, torch.cat([mask, mask.new_zeros(4, 3)], 1)), wanted, atol=1e-5, rtol=0)
        for i, length in enumerate(mask.sum(1).tolist()):
            alone = net(x[i : i + 1, :length], mask[i : i + 1, :length])
            torch.testing.assert_close(alone, wanted[i : i + 1], atol=1e-5, rtol=0)
            torch.testing.assert_close(net(x[i : i + 1, :length]), wanted[i : i + 1], atol=1e-5, rtol=0)


@NETS
def test_real_frames_and_their_order_matter(build, batch: tuple[Tensor, Tensor]) -> None:
    net, (x, mask) = build(), batch
    changed = x.clone()
    changed[:, 0] += 1.0
    with torch.no_grad():
        wanted = net(x, mask)
        assert ((net(changed, mask) - wanted).abs().amax(1) > 1e-4).all()
        assert (net(x[:1].flip(1), mask[:1]) - wanted[:1]).abs().max() > 1e-4


def test_without_positions_the_transformer_ignores_order(batch: tuple[Tensor, Tensor]) -> None:
    net, (x, mask) = transformer(positions="none"), batch
    with torch.no_grad():
        torch.testing.assert_close(net(x[:1].flip(1), mask[:1]), net(x[:1], mask[:1]), atol=1e-5, rtol=0)


@NETS
def test_row_without_real_frame_is_finite_and_harmless(build, batch: tuple[Tensor, Tensor]) -> None:
    net, (x, mask) = build().train(), batch
    mask = mask.clone()
    mask[1] = False
    logits = net(x, mask)
    assert logits.isfinite().all()
    logits[[0, 2, 3]].sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    net.eval()
    with torch.no_grad():
        others = [0, 2, 3]
        torch.testing.assert_close(net(x, mask)[others], net(x[others], mask[others]), atol=1e-5, rtol=0)


@NETS
def test_too_long_a_sequence_is_refused(build) -> None:
    with pytest.raises(ValueError, match="25 frames is longer than max_len=24"):
        build()(torch.randn(1, 25, 12), torch.ones(1, 25, dtype=torch.bool))


@NETS
def test_every_parameter_gets_a_gradient(build, batch: tuple[Tensor, Tensor]) -> None:
    net, (x, mask) = build().train(), batch
    # several rows for each member
    logits = net(torch.randn(12, *x.shape[1:]), mask.repeat(3, 1))
    nn.functional.cross_entropy(logits, torch.arange(12) % 5).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@NETS
def test_bfloat16_and_no_float64(build, batch: tuple[Tensor, Tensor]) -> None:
    net, (x, mask) = build(), batch
    tensors = [*net.parameters(), *net.buffers()]
    assert torch.float64 not in {t.dtype for t in tensors}
    with torch.no_grad():
        wanted = net(x, mask)
        logits = copy.deepcopy(net).bfloat16()(x.bfloat16(), mask)
        assert logits.dtype == torch.bfloat16
        torch.testing.assert_close(logits.float(), wanted, atol=0.1, rtol=0.1)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(net(x, mask).float(), wanted, atol=0.1, rtol=0.1)


@NETS
def test_forward_is_one_graph(build, batch: tuple[Tensor, Tensor]) -> None:
    net, (x, mask) = build(), batch
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, mask), net(x, mask))
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "change",
    [
        {"width": 24}, {"depth": 3}, {"heads": 4}, {"ffn": 16}, {"head_width": 4}, {"max_len": 30},
        {"positions": "sinusoidal"}, {"positions": "none"}, {"pooling": "attention"},
    ],
    ids=str,
)  # fmt: skip
def test_transformer_knobs(change: dict, batch: tuple[Tensor, Tensor]) -> None:
    base, other, (x, mask) = transformer(), transformer(**change), batch
    assert count(base) != count(other) or not torch.allclose(base(x, mask), other(x, mask))


@pytest.mark.parametrize(
    "change",
    [
        {"width": 12}, {"stages": (8, 16)}, {"blocks": 2}, {"members": 2}, {"kernel": 5}, {"depth": 2}, {"heads": 4},
        {"max_len": 40}, {"positions": "sinusoidal"}, {"positions": "none"},
    ],
    ids=str,
)  # fmt: skip
def test_streams_knobs(change: dict, batch: tuple[Tensor, Tensor]) -> None:
    base, other, (x, mask) = streams(), streams(**change), batch
    assert count(base) != count(other) or not torch.allclose(base(x, mask), other(x, mask))


@pytest.mark.parametrize(
    ("build", "knob"),
    [(transformer, "dropout"), (transformer, "head_dropout"), (streams, "input_dropout"), (streams, "dropout"),
     (streams, "head_dropout")],
)  # fmt: skip
def test_dropout_knobs_act_in_training_only(build, knob: str, batch: tuple[Tensor, Tensor]) -> None:
    x, mask = batch
    off = {"dropout": 0.0, "head_dropout": 0.0} | ({"input_dropout": 0.0} if build is streams else {})
    net = build(**off)
    torch.testing.assert_close(copy.deepcopy(net).train()(x, mask), copy.deepcopy(net).train()(x, mask))
    net = build(**(off | {knob: 0.5}))
    torch.testing.assert_close(net(x, mask), net(x, mask))
    assert not torch.allclose(copy.deepcopy(net).train()(x, mask), copy.deepcopy(net).train()(x, mask))


def test_masked_batch_norm_equals_torch_on_the_real_frames(batch: tuple[Tensor, Tensor]) -> None:
    x, mask = batch
    ours, theirs = MaskedBatchNorm(12), nn.BatchNorm1d(12)
    out = ours(x, mask[..., None].float())
    torch.testing.assert_close(out[mask], theirs(x[mask]), atol=1e-5, rtol=1e-4)
    assert (out[~mask] == 0).all()
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    ours.eval()
    assert not torch.allclose(ours(x, mask[..., None].float())[mask], out[mask])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "does not divide"),
        ({"positions": "rotary"}, "choose learned"),
        ({"pooling": "max"}, "choose mean"),
    ],
)
def test_bad_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transformer(**change)


def test_members_train_on_their_own_rows_and_are_averaged(batch: tuple[Tensor, Tensor]) -> None:
    x, mask = batch
    net = streams(members=3, dropout=0.0, input_dropout=0.0, head_dropout=0.0)
    with torch.no_grad():
        apart = torch.stack([member(x * mask[..., None], mask).softmax(-1) for member in net.members])
        torch.testing.assert_close(net(x, mask).exp(), apart.mean(0), atol=1e-5, rtol=0)
    net.train()
    logits = net(x, mask)
    rows = [0, 3]  # with three members, rows 0 and 3 belong to the first
    torch.testing.assert_close(logits[rows], copy.deepcopy(net.members[0])(x[rows] * mask[rows][..., None], mask[rows]))
    logits[1].sum().backward()
    touched = [any(p.grad is not None and p.grad.abs().sum() > 0 for p in m.parameters()) for m in net.members]
    assert touched == [False, True, False]


def test_no_member_is_refused() -> None:
    with pytest.raises(ValueError, match="members=0"):
        streams(members=0)


def test_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel=4 must be odd"):
        streams(kernel=4)
