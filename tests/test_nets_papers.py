"""The networks of `papers`: sizes, masks, and that every knob does something."""

import math

import pytest
import torch
from torch import Tensor, nn

from modules.nets.papers import PapersNet
from modules.nets.papers_encoder import (
    CachedStates,
    PretrainedEncoder,
    SmallEncoder,
    StateEncoder,
    TokenEncoder,
    UpperLayers,
    Vectors,
    model_layers,
    random_model,
)
from modules.nets.papers_fusion import CrossAttention, KeywordGraph
from modules.nets.papers_pooling import AttentionPool, ClsPool, HierarchicalPool, MeanPool, build_pool
from modules.nets.papers_tuning import LowRank, tune

SCIBERT = {"model_type": "bert", "vocab_size": 31_090}  # the rest is what a BERT configuration has by itself
# Softmax cancels the bias of a scorer: counted, but never trained.
SCORER_BIASES = 2
WIDTH, VOCAB, CLASSES = 16, 40, 3


def count(net: nn.Module, trainable: bool = False) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad or not trainable)


def scibert(encoders: int = 1, frozen: tuple[int, ...] = (0,), **settings: object) -> PapersNet:
    with torch.device("meta"):
        parts = [TokenEncoder(random_model(SCIBERT)) for _ in range(encoders)]
        for part, layers in zip(parts, frozen * encoders, strict=False):
            tune(part, layers, False, 0)
        return PapersNet(parts, 768, 4, **settings)


def test_the_encoder_has_the_sizes_of_scibert_without_its_pooler() -> None:
    with torch.device("meta"):
        encoder = TokenEncoder(random_model(SCIBERT))
    assert count(encoder) == 109_327_872
    assert count(encoder.embeddings) == 24_273_408
    assert [count(layer) for layer in encoder.layers] == [7_087_872] * 12


# The brief counts a pooler of 590,592 that nothing reads.
@pytest.mark.parametrize(
    ("settings", "with_pooler"),
    [
        ({}, 110_873_478),
        ({"head": [512, 256], "activation": "relu", "dropout": 0.3}, 110_840_838),
        ({"encoding": "single", "pooling": "cls", "head": [256], "activation": "relu"}, 110_116_868),
        ({"cross": "two_way"}, 115_601_286),
        ({"pooling": "hierarchical"}, 110_873_478 + 1_538),
    ],
    ids=["dual-3", "dual-2", "single", "cross", "hierarchical"],
)
def test_networks_of_the_brief_have_exactly_their_parameters(settings: dict, with_pooler: int) -> None:
    assert count(scibert(**settings)) == with_pooler - 590_592


def test_dual_cross_and_separate_without_poolers() -> None:
    assert count(scibert()) == 110_282_886
    assert count(scibert(cross="two_way")) == 115_010_694
    assert count(scibert(cross="one_way")) == 110_282_886 + 4_727_808 // 2
    separate = scibert(2, (6, 9), encoding="separate")
    assert count(separate) == 219_610_758
    # the facts count both poolers as trainable
    assert count(separate, trainable=True) == 114_473_862 - 2 * 590_592 - SCORER_BIASES


@pytest.mark.parametrize(("frozen", "trainable"), [(3, 89_609_862), (4, 82_521_990), (6, 68_346_246), (8, 54_170_502)])
def test_frozen_layers_leave_the_trainable_parameters_of_the_facts(frozen: int, trainable: int) -> None:
    assert count(scibert(frozen=(frozen,)), trainable=True) == trainable - 590_592 - SCORER_BIASES


def test_the_graph_convolution_has_the_size_of_the_facts() -> None:
    net = scibert(num_keywords=2_000)
    assert count(net.graph.convolve) == 590_592
    assert count(net.graph.embed) == 2_000 * 768
    assert count(net) == 110_282_886 + 590_592 + 2_000 * 768 + 768 * 512  # the head reads it, too


# small ones with weights


def small(form: str = "tokens", encoding: str = "shared", **changes: object) -> PapersNet:
    torch.manual_seed(0)
    spec = SmallEncoder(WIDTH, 2, 2, 32, 0.1, 64)
    parts: list[nn.Module] = []
    for _ in range(2 if encoding == "separate" else 1):
        parts += {
            "tokens": [TokenEncoder(random_model(spec.shape(VOCAB)))],
            "states": [StateEncoder(model_layers(random_model(spec.shape(VOCAB)))[1:], WIDTH)],
        }.get(form, [])
    settings = {"head": [12, 8, 6], "form": form, "encoding": encoding, "block": 3, "cross_heads": 2}
    net = PapersNet(parts, WIDTH, CLASSES, **(settings | changes)).eval()
    with torch.no_grad():
        for module in net.head:  # so that logits differ by more than rounding
            if isinstance(module, nn.Linear):
                module.weight.mul_(20)
    return net


def batch(
    form: str = "tokens", fields: tuple[str, ...] = ("title", "abstract"), keywords: int = 0, terms: int = 0
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    made: dict[str, Tensor] = {}
    for field, longest in zip(fields, (7, 14), strict=False):
        lengths = torch.randint(1, longest + 1, (4,), generator=generator)
        lengths[0] = longest
        made[f"{field}_mask"] = torch.arange(longest) < lengths[:, None]
        if form == "tokens":
            made[f"{field}_ids"] = torch.randint(VOCAB, (4, longest), generator=generator)
        else:
            made[f"{field}_states"] = torch.randn(4, longest, WIDTH, generator=generator)
    if form == "vectors":
        made = {"vector": torch.randn(4, 2 * WIDTH, generator=generator)}
    if keywords:
        mask = torch.arange(keywords) < torch.tensor([keywords, 2, 0, 1])[:, None]
        links = torch.triu((torch.rand(4, keywords, keywords, generator=generator) < 0.5).float(), 1)
        made |= {
            "keyword_ids": torch.randint(10, (4, keywords), generator=generator),
            "keyword_weights": torch.rand(4, keywords, generator=generator),
            "keyword_mask": mask,
            "keyword_links": (links + links.mT) * (mask[:, None] & mask[..., None]),
        }
    if terms:
        made |= {
            "term_ids": torch.randint(10, (4, terms), generator=generator),
            "term_weights": torch.rand(4, terms, generator=generator),
            "term_mask": torch.arange(terms) < torch.tensor([terms, 1, 0, 2])[:, None],
        }
    return made


VARIANTS = {
    "shared": {},
    "separate": {"encoding": "separate"},
    "single": {"encoding": "single"},
    "mean": {"pooling": "mean"},
    "hierarchical": {"pooling": "hierarchical"},
    "cls": {"pooling": "cls"},
    "one_way": {"cross": "one_way"},
    "two_way": {"cross": "two_way"},
    "states": {"form": "states"},
    "vectors": {"form": "vectors", "pooling": "mean"},
    "graph": {"num_keywords": 10},
    "terms": {"num_terms": 10, "term_width": 4},
    "everything": {
        "form": "states",
        "num_keywords": 10,
        "num_terms": 10,
        "cross": "two_way",
        "pooling": "hierarchical",
    },
}
EACH = pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)


def batch_of(settings: dict) -> dict[str, Tensor]:
    fields = ("text",) if settings.get("encoding") == "single" else ("title", "abstract")
    form = settings.get("form", "tokens")
    return batch(form, fields, 4 if settings.get("num_keywords") else 0, 3 if settings.get("num_terms") else 0)


@EACH
def test_padding_order_and_size_of_the_batch_change_nothing(settings: dict) -> None:
    net, inputs = small(**settings), batch_of(settings)
    logits = net(**inputs)
    assert logits.shape == (4, CLASSES)
    assert logits.std(0).min() > 1e-3
    torch.testing.assert_close(net(**{k: v.flip(0) for k, v in inputs.items()}).flip(0), logits, atol=1e-5, rtol=1e-5)
    one = torch.cat([net(**{k: v[i : i + 1] for k, v in inputs.items()}) for i in range(4)])
    torch.testing.assert_close(one, logits, atol=1e-5, rtol=1e-5)
    wild = dict(inputs)
    for name, mask in inputs.items():
        if not name.endswith("_mask"):
            continue
        field = name.removesuffix("_mask")
        if f"{field}_ids" in inputs:
            wild[f"{field}_ids"] = inputs[f"{field}_ids"].masked_fill(~mask, 5)
        for kind in ("states", "weights"):
            if f"{field}_{kind}" in inputs:
                x = inputs[f"{field}_{kind}"]
                wild[f"{field}_{kind}"] = x.masked_fill(~mask.view(*mask.shape, *[1] * (x.ndim - 2)), math.nan)
        if field == "keyword":
            wild["keyword_links"] = inputs["keyword_links"].masked_fill(~(mask[:, None] & mask[..., None]), math.nan)
    torch.testing.assert_close(net(**wild), logits, atol=1e-5, rtol=1e-5)


@EACH
def test_every_trainable_parameter_has_a_gradient(settings: dict) -> None:
    net = small(**settings).train()
    net(**batch_of(settings)).square().sum().backward()
    trainable = {name: p for name, p in net.named_parameters() if p.requires_grad}
    assert [name for name, p in trainable.items() if p.grad is None or not p.grad.any()] == []
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == [
        name for name in net.state_dict() if "pools" in name and name.endswith("bias")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shared", "single", "vectors", "everything"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler speaks of itself
def test_the_network_compiles_without_a_break(name: str) -> None:
    torch.compiler.reset()
    net, inputs = small(**VARIANTS[name]), batch_of(VARIANTS[name])
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs), net(**inputs))


@EACH
def test_a_field_without_a_real_token_stays_finite(settings: dict) -> None:
    net, inputs = small(**settings), batch_of(settings)
    for name in [name for name in inputs if name.endswith("_mask")]:
        inputs[name] = inputs[name].clone()
        inputs[name][1] = False
    assert net(**inputs).isfinite().all()


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("shared", "states", "vectors", "single")])
def test_each_setting_changes_the_scores(name: str) -> None:
    settings = VARIANTS[name]
    form = settings.get("form", "tokens")
    plain = small(form=form)(**batch(form))
    assert not torch.allclose(small(**settings)(**batch_of(settings)), plain, atol=1e-4)


@pytest.mark.parametrize("change", [{"dropout": 0.0}, {"encoder_dropout": 0.0}, {"activation": "relu"}, {"head": [12]}])
def test_each_setting_of_the_head_changes_the_scores(change: dict) -> None:
    one, other = small().train(), small(**change).train()
    if "head" not in change:
        other.load_state_dict(one.state_dict())
    found = []
    for net in (one, other):
        torch.manual_seed(3)
        found.append(net(**batch()))
    assert not torch.allclose(*found, atol=1e-4)


def test_the_head_is_the_one_of_the_brief() -> None:
    head = PapersNet([], WIDTH, 4, form="vectors", pooling="mean").head
    assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == pytest.approx([0.35, 0.35, 0.28])
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [512, 256, 128, 4]
    assert all(layer.bias.eq(0).all() for layer in linear)
    assert float(linear[1].weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert len(PapersNet([], WIDTH, 4, form="vectors", pooling="mean", head=[]).head) == 1


def test_mixing_is_of_the_fused_vectors() -> None:
    net = small("vectors", pooling="mean", head=[])  # linear: mixed vectors give mixed logits
    inputs = batch("vectors")
    logits, pairs, share = net(**inputs), torch.tensor([1, 0, 2, 0]), torch.tensor([0.3, 1.0, 0.2, 0.5])
    mixed = net(**inputs, mix_pairs=pairs, mix_share=share)
    torch.testing.assert_close(mixed, share[:, None] * logits + (1 - share[:, None]) * logits[pairs])


def test_auxiliary_heads_read_the_vector_that_is_not_mixed() -> None:
    net, inputs = small(auxiliary={"crosslist": 5, "learning": 1}), batch()
    plain = net(**inputs)
    assert {name: tuple(x.shape) for name, x in plain.items()} == {
        "logits": (4, 3),
        "crosslist": (4, 5),
        "learning": (4, 1),
    }
    mixed = net(**inputs, mix_pairs=torch.tensor([1, 2, 3, 0]), mix_share=torch.full((4,), 0.5))
    assert not torch.allclose(mixed["logits"], plain["logits"])
    torch.testing.assert_close(mixed["crosslist"], plain["crosslist"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "states", "encoding": "single"}, "two fields"),
        ({"encoding": "single", "cross": "two_way"}, "two fields"),
        ({"form": "vectors", "pooling": "attention"}, "pooling: mean"),
        ({"form": "vectors", "pooling": "mean", "cross": "one_way"}, "cross: none"),
        ({"pooling": "max"}, "choose attention"),
        ({"pooling": "hierarchical", "block": 0}, "at least one token"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_a_batch_of_another_form_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no title_mask.*data\.single"):
        small()(**batch(fields=("text",)))
    with pytest.raises(ValueError, match="no keyword_ids"):
        small(num_keywords=10)(**batch())
    with pytest.raises(ValueError, match="1 encoders do not fit"):
        PapersNet([StateEncoder(nn.ModuleList(), WIDTH)], WIDTH, 3, encoding="separate")


# pooling and fusion, each against a slow reference


def test_hierarchical_pooling_loses_nothing_and_keeps_the_size_of_a_state() -> None:
    torch.manual_seed(0)
    x, pool = torch.randn(3, 32, 8), HierarchicalPool(8, 10)
    mask = torch.arange(32) < torch.tensor([32, 12, 5])[:, None]
    weights = pool.weights(x, mask)
    # the sketch: 32 tokens are 3 blocks and two lost tokens, weights of a block sum to its share of the mass
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert (weights[0] > 0).all()
    assert weights[~mask].eq(0).all()
    vectors, scores = [], []
    for start in (0, 10):  # the second paper has a whole block and two tokens
        block = x[1, start : min(start + 10, 12)]
        inner = pool.token_score(block).softmax(0)
        vectors.append((block * inner[:, None]).sum(0))
        scores.append(pool.block_score(vectors[-1]))
    outer = torch.stack(scores).softmax(0)
    torch.testing.assert_close(pool(x, mask)[1], outer[0] * vectors[0] + outer[1] * vectors[1])


def test_pools_weigh_real_tokens_only() -> None:
    x, mask = torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True, True, False, False, False]])
    torch.testing.assert_close(MeanPool()(x, mask)[1], x[1, :2].mean(0))
    torch.testing.assert_close(ClsPool()(x, mask), x[:, 0])
    pool = AttentionPool(8)
    expected = (pool.score(x[1, :2]).softmax(0)[:, None] * x[1, :2]).sum(0)
    torch.testing.assert_close(pool(x, mask)[1], expected)
    for name in ("attention", "mean", "hierarchical"):
        assert build_pool(name, 8, 2)(x, mask & False).eq(0).all()


def test_cross_attention_leaves_padding_out_and_adds_to_what_asks() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(8, 2).eval()
    asking, asked = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    found = layer(asking, asked, mask)
    alone = layer(asking[1:], asked[1:, :2], mask[1:, :2])
    torch.testing.assert_close(found[1:], alone)
    seen, _ = layer.attend(asking[:1], asked[:1], asked[:1])
    torch.testing.assert_close(found[:1], layer.norm(asking[:1] + seen))


def test_the_keyword_graph_is_the_convolution_of_the_facts() -> None:
    torch.manual_seed(0)
    graph = KeywordGraph(10, 6)
    with torch.no_grad():
        graph.convolve.bias.normal_()
    inputs = batch("vectors", keywords=4)
    ids, weights, mask = (inputs[f"keyword_{name}"] for name in ("ids", "weights", "mask"))
    links, found = (
        inputs["keyword_links"],
        graph(*(inputs[f"keyword_{n}"] for n in ("ids", "weights", "mask", "links"))),
    )
    for row, n in enumerate(mask.sum(1).tolist()):
        if not n:
            assert found[row].eq(0).all()
            continue
        a = links[row, :n, :n] + torch.eye(n)
        d = torch.diag(a.sum(1) ** -0.5)
        nodes = graph.embed.weight[ids[row, :n]] * weights[row, :n, None]
        torch.testing.assert_close(found[row], graph.convolve(d @ a @ d @ nodes).mean(0))
    share = graph.attention(weights, mask, links)
    torch.testing.assert_close(share.sum(1), torch.tensor([1.0, 1.0, 0.0, 1.0]))


def test_links_change_the_graph() -> None:
    net, inputs = small(num_keywords=10), batch(keywords=4)
    star = torch.zeros(4, 4, 4)  # in a regular graph, the mean over the nodes would stay what it is
    star[0, 0, 1:] = star[0, 1:, 0] = 1
    inputs, alone = inputs | {"keyword_links": star}, inputs | {"keyword_links": torch.zeros(4, 4, 4)}
    assert not torch.allclose(net(**inputs)[0], net(**alone)[0], atol=1e-5)


@EACH
def test_weights_for_explanations_sum_to_one_over_real_tokens(settings: dict) -> None:
    net, inputs = small(**settings), batch_of(settings)
    found = net.attention(**inputs)
    fields = {name.removesuffix("_mask") for name in inputs if name.endswith("_mask")}
    assert found.keys() == {"keywords" if field == "keyword" else field for field in fields - {"term"}}
    for field, weights in found.items():
        mask = inputs["keyword_mask" if field == "keywords" else f"{field}_mask"]
        assert weights[~mask].eq(0).all()
        torch.testing.assert_close(weights.sum(1), mask.any(1).float())


# encoders and what of them is trained


@pytest.fixture
def folder(tmp_path) -> str:
    torch.manual_seed(0)
    shape = {"model_type": "bert", "vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": 3}
    shape |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
    random_model(shape).save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


def test_upper_layers_go_on_where_the_states_end(folder: str) -> None:
    inputs = batch()
    ids, mask = inputs["abstract_ids"], inputs["abstract_mask"]
    spec = PretrainedEncoder(folder)
    whole = spec.build(spec.shape(VOCAB), 0, True).eval()
    out = whole(ids, mask)
    states = whole.model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    for layer in range(4):
        upper = UpperLayers(folder, layer)
        part = upper.build(upper.shape(0), WIDTH, True).eval()
        assert len(part.layers) == 3 - layer
        torch.testing.assert_close(part(states[layer], mask)[mask], out[mask], atol=1e-5, rtol=1e-5)
    cached = CachedStates()
    torch.testing.assert_close(cached.build(cached.shape(0), WIDTH, True)(out, mask)[mask], out[mask])
    assert Vectors().build({}, WIDTH, True) is None


def test_random_weights_and_stored_shapes_do_not_read_the_weights(folder: str) -> None:
    spec = PretrainedEncoder(folder)
    shape = spec.shape(VOCAB)
    built = spec.build(shape, 0, True)
    assert all(module.training for module in built.modules())  # or it would be tuned without its dropout
    read = built.state_dict()
    for other in (PretrainedEncoder(folder, random_weights=True).build(shape, 0, True), spec.build(shape, 0, False)):
        assert other.state_dict().keys() == read.keys()
        assert not torch.equal(
            other.state_dict()["model.embeddings.word_embeddings.weight"],
            read["model.embeddings.word_embeddings.weight"],
        )
    upper = UpperLayers(folder, 2, random_weights=True).build(shape, WIDTH, True)
    same = UpperLayers(folder, 2).build(shape, WIDTH, True)
    assert not torch.equal(upper.layers[0].output.dense.weight, same.layers[0].output.dense.weight)


@pytest.mark.parametrize(
    "shape",
    [
        {"model_type": "roberta", "pad_token_id": 1},
        {"model_type": "deberta-v2", "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        {"model_type": "electra", "embedding_size": WIDTH},
    ],
    ids=lambda shape: shape["model_type"],
)
def test_other_encoders_fit(shape: dict) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 64}
    encoder = TokenEncoder(random_model(sizes | shape)).eval()
    assert len(encoder.layers) == 2
    inputs = batch()
    ids, mask = inputs["abstract_ids"].clamp(min=4), inputs["abstract_mask"]
    out = encoder(ids, mask)
    assert out.shape == (4, 14, WIDTH)
    short = mask[1].sum()
    torch.testing.assert_close(encoder(ids[1:2, :short], mask[1:2, :short]), out[1:2, :short], atol=1e-5, rtol=1e-5)
    tune(encoder, 1, True, 2)
    assert sum(isinstance(module, LowRank) for module in encoder.modules()) == 2
    assert "pooler" not in " ".join(encoder.state_dict())


@pytest.mark.parametrize(
    ("kind", "places", "own"),
    [
        ("bert", 64, {}),
        ("roberta", 62, {"pad_token_id": 1}),  # its table begins behind the padding index
        ("distilbert", 64, {}),
        ("albert", 64, {"embedding_size": 8}),
        ("xlnet", None, {"d_inner": 32, "d_head": 8}),
        ("modernbert", None, {"pad_token_id": 0}),
    ],
)
def test_an_encoder_says_how_long_a_text_may_be(kind: str, places: int | None, own: dict) -> None:
    sizes = {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {} if kind == "xlnet" else {"intermediate_size": 32, "max_position_embeddings": 64}
    encoder = TokenEncoder(random_model({"model_type": kind} | sizes | own)).eval()
    assert encoder.places == places and encoder.width == WIDTH
    assert len(encoder.layers) == (1 if kind == "albert" else 2)  # whose layers are one, run twice
    if places:
        mask = torch.ones(1, places + 1, dtype=torch.bool)
        ids = torch.full(mask.shape, 5)
        assert encoder(ids[:, 1:], mask[:, 1:]).shape == (1, places, WIDTH)
        with pytest.raises((IndexError, RuntimeError)):
            encoder(ids, mask)


def test_freezing_is_by_layer_and_leaves_embeddings_unless_told() -> None:
    net = small()
    encoder = net.encoders[0]
    tune(encoder, 1, False, 0)
    assert not any(p.requires_grad for p in encoder.layers[0].parameters())
    assert all(p.requires_grad for p in encoder.layers[1].parameters())
    assert all(p.requires_grad for p in encoder.embeddings.parameters())
    tune(encoder, 0, True, 0)
    assert not any(p.requires_grad for p in encoder.embeddings.parameters())


def test_adapters_start_as_nothing_and_train_alone() -> None:
    net, inputs = small(), batch()
    before = net(**inputs)
    encoder = net.encoders[0]
    tune(encoder, 1, False, 3)
    torch.testing.assert_close(net(**inputs), before)
    trained = [name for name, p in encoder.named_parameters() if p.requires_grad]
    assert len(trained) == 4 and all(name.split(".")[-1] in ("down", "up") for name in trained)  # of the upper layer
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == 2 * 2 * 3 * WIDTH
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, LowRank):
                module.up.normal_()
    assert not torch.allclose(net(**inputs), before, atol=1e-4)


def test_what_cannot_be_tuned_is_refused() -> None:
    states = StateEncoder(nn.ModuleList(), WIDTH)
    with pytest.raises(ValueError, match="no embeddings"):
        tune(states, 0, True, 0)
    with pytest.raises(ValueError, match="has 0"):
        tune(states, 1, False, 0)
    with pytest.raises(ValueError, match="lora_rank"):
        tune(states, 0, False, 2)
    with pytest.raises(ValueError, match="layers of Linear are not known"):
        model_layers(nn.Linear(2, 2))


def test_encoders_refuse_what_does_not_fit(folder: str, tmp_path) -> None:
    for spec in (SmallEncoder(), PretrainedEncoder(folder)):
        with pytest.raises(ValueError, match="cached states"):
            spec.shape(0)
    with pytest.raises(ValueError, match=r"has 99 tokens.*40.*data\.tokenizer"):
        PretrainedEncoder(folder).shape(99)
    with pytest.raises(ValueError, match="no encoder at"):
        PretrainedEncoder(str(tmp_path)).shape(5)
    with pytest.raises(ValueError, match="does not divide"):
        SmallEncoder(width=10, heads=4)
    with pytest.raises(ValueError, match="has 3 layers, layer is 4"):
        UpperLayers(folder, 4).shape(0)
    with pytest.raises(ValueError, match="at least 0"):
        UpperLayers(folder, -1)
    upper = UpperLayers(folder, 1)
    with pytest.raises(ValueError, match="are 8 wide"):
        upper.build(upper.shape(0), 8, True)


def test_vectors_of_both_fields_are_scaled_to_one_length():
    torch.manual_seed(0)
    net = PapersNet([], 8, 3, "vectors", pooling="mean", head=[], vector_length=0.5).eval()
    vector = torch.randn(4, 16)
    longer = torch.cat([vector[:, :8] * 7, vector[:, 8:] * 0.1], dim=1)
    torch.testing.assert_close(net(vector=longer), net(vector=vector))
    unit = torch.cat([part / part.norm(dim=1, keepdim=True) for part in vector.split(8, dim=1)], dim=1)
    torch.testing.assert_close(net(vector=vector), net.head(0.5 * unit))
    plain = PapersNet([], 8, 3, "vectors", pooling="mean", head=[]).eval()
    assert not torch.allclose(plain(vector=longer), plain(vector=vector))
    with pytest.raises(ValueError, match="vector_length"):
        PapersNet([], 8, 3, "vectors", pooling="mean", vector_length=0.0)
