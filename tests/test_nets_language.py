"""The language model's network: causal, rows apart, a memory that is read, a cache without effect."""

import copy
import shutil

import pytest
import torch
import torch.nn.functional as F
import yaml

from modules.nets import language_parts
from modules.nets.language import Dropouts, LanguageTransformer, Shape
from modules.nets.language_parts import Exploration, Noise, TokenLoss
from modules.nets.memory import Slots, build_memory, coarse
from tests.running import ROOT

VOCAB, ROWS, LENGTH = 40, 3, 20
OURS = Shape(32, 2, 4, 48, 64, "pre", "rotary", True, False, True, 16)
BRIEF = Shape(32, 2, 4, 48, 64)
SLOTS = {"keyed": Slots(16, 16, 8, 2), "brief": Slots(16, 16, 8, 1, kind="brief")}


def network(kind="keyed", memory=True, dropout=0.0, exploration=None, **changes):
    torch.manual_seed(0)
    shape = {**vars(BRIEF if kind == "brief" else OURS), **changes}
    slots = SLOTS[kind] if memory else None
    net = LanguageTransformer(VOCAB, Shape(**shape), Dropouts(dropout=dropout), slots, exploration)
    if net.memory is not None:  # as after some steps: the gate is open
        with torch.no_grad():
            (net.memory.gate if kind == "brief" else net.memory.gate.bias).fill_(0.7)
    return net.eval()


@pytest.fixture
def tokens():
    return torch.randint(VOCAB, (4, ROWS, LENGTH), generator=torch.Generator().manual_seed(1))  # segments, rows, tokens


def read(net, segments, starts=None):
    """Outputs of segment after segment, the memory carried on."""
    state, outputs = net.new_state(segments.shape[1], segments.shape[2]), []
    for i, segment in enumerate(segments):
        outputs.append(net(segment, state=state, starts=None if starts is None else starts[i]))
        state = outputs[-1].get("state")
    return outputs


@pytest.mark.parametrize("kind", ["keyed", "brief"])
@pytest.mark.parametrize("train", [False, True])
def test_causality_also_with_memory_and_in_training(kind, train, tokens):
    net = network(kind).train(train)
    other = tokens.clone()
    other[2, :, 12:] = (other[2, :, 12:] + 1) % VOCAB
    one, two = read(net, tokens), read(net, other)
    for i in range(2):
        assert torch.equal(one[i]["logits"], two[i]["logits"])
    torch.testing.assert_close(one[2]["logits"][:, :12], two[2]["logits"][:, :12], atol=1e-6, rtol=0)
    assert (one[2]["logits"][:, 12:] - two[2]["logits"][:, 12:]).abs().amax(2).min() > 0
    assert (one[3]["logits"] - two[3]["logits"]).abs().max() > 1e-5  # through the memory alone


@pytest.mark.parametrize("kind", ["keyed", "brief"])
def test_memory_gradient_reaches_every_parameter(kind, tokens):
    """All of them at the first segment (zeros where nothing is written yet), none zero once something was read."""
    torch.manual_seed(0)
    net = LanguageTransformer(VOCAB, BRIEF if kind == "brief" else OURS, Dropouts(0.0), SLOTS[kind], Exploration())
    optimizer, state = torch.optim.SGD(net.parameters(), lr=0.1), net.new_state(ROWS, LENGTH)
    alive = set()
    for step in range(4):
        out = net(tokens[step % 4], state=state, targets=tokens[step % 4].roll(-1, 1))
        state = out["state"]
        optimizer.zero_grad()
        out["nll"].mean().backward()
        assert [name for name, p in net.named_parameters() if p.grad is None] == []
        alive |= {name for name, p in net.named_parameters() if p.grad.any()}
        optimizer.step()
    assert {name for name, _ in net.named_parameters()} - alive == set()


@pytest.mark.parametrize("kind", ["keyed", "brief"])
def test_batch_invariance_of_rows_order_and_size(kind, tokens):
    net = network(kind)
    starts = torch.zeros_like(tokens, dtype=torch.bool)
    starts[1, 1, 7] = starts[2, 0, 0] = True
    whole = read(net, tokens, starts)
    for rows in ([2, 0, 1], [1], [0, 2]):
        part = read(net, tokens[:, rows], starts[:, rows])
        for one, two in zip(whole, part, strict=True):
            torch.testing.assert_close(one["logits"][rows], two["logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["keyed", "brief"])
@pytest.mark.parametrize("memory", [True, False])
def test_kv_cache_gives_what_no_cache_gives(kind, memory, tokens):
    net = network(kind, memory)
    state = read(net, tokens[:2])[1].get("state")
    whole, cache, parts = net(tokens[2], state=state)["logits"], net.new_cache(ROWS, LENGTH), []
    for begin, end in [(0, 5), (5, 6), (6, 11), *((i, i + 1) for i in range(11, LENGTH))]:
        parts.append(net(tokens[2][:, begin:end], state=state, cache=cache)["logits"])
        assert cache.length == end
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-5, rtol=0)
    with pytest.raises(ValueError, match="max_len=64"):
        net.new_cache(1, 65)


def test_rows_of_a_cache_can_be_chosen(tokens):
    net = network(memory=False)
    cache = net.new_cache(ROWS, LENGTH)
    net(tokens[0][:, :8], cache=cache)
    cache.select(torch.tensor([2, 0]))
    went_on = net(tokens[0][[2, 0], 8:9], cache=cache)["logits"]
    torch.testing.assert_close(went_on, net(tokens[0][[2, 0], :9])["logits"][:, 8:], atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["keyed", "brief"])
def test_memory_is_of_earlier_segments_and_is_forgotten_where_a_document_begins(kind, tokens):
    net, starts = network(kind), torch.zeros_like(tokens, dtype=torch.bool)
    starts[2, 0, 5] = True
    other = tokens.clone()
    other[:2] = (other[:2] + 3) % VOCAB
    one, two = read(net, tokens, starts), read(net, other, starts)
    gap = (one[2]["hidden"] - two[2]["hidden"]).abs().amax(2)
    assert gap[0, :5].min() > 0  # still in the document that the memory is about
    assert gap[0, 5:].max() < gap[0, :5].max()
    fresh = network(kind)
    alone = read(fresh, tokens[3:])[0]["hidden"]
    with_memory = one[3]["hidden"]
    assert (with_memory[0] - two[3]["hidden"][0]).abs().max() == 0  # of row 0 only the new document is kept
    assert (with_memory[1] - two[3]["hidden"][1]).abs().max() > 0
    assert (with_memory[0] - alone[0]).abs().max() > 0  # and that is read


def test_slots_fill_and_the_least_important_go_first():
    net = network()
    memory, state = net.memory, net.new_state(1, LENGTH)
    for i in range(2):
        segment = torch.randint(VOCAB, (1, LENGTH), generator=torch.Generator().manual_seed(i))
        state = net(segment, state=state)["state"]
    slots = memory.write(state)
    assert (slots["importance"] > 0).all()  # 2 x 8 of 16
    assert sorted(slots["age"][0].tolist()) == [0.0] * 8 + [1.0] * 8
    with torch.no_grad():
        memory.score.bias.fill_(8.0)  # what comes is worth more than all that is there
    state = net(segment, state=state)["state"]
    before = memory.priority(memory.forgotten(state))[0]
    after = memory.write(state)
    written = after["age"][0] == 0
    assert written.sum() == 8
    assert before[written].max() <= before[~written].min() + 1e-3


def test_an_importance_fades_by_its_decay_each_segment():
    for decay in (1.0, 0.5):
        memory = build_memory(8, Slots(2, 4, 2, decay=decay))
        slots = memory.empty(1, 4) | {"importance": torch.tensor([[0.8, 0.3]]), "age": torch.tensor([[3.0, 0.0]])}
        torch.testing.assert_close(memory.priority(slots), torch.tensor([[0.8 * decay**3, 0.3]]))


def test_one_token_is_a_segment_too():
    net = LanguageTransformer(9, Shape(8, 2, 2, 16, 8, norm="pre", copy=4), memory=Slots(4, 4, 2)).eval()
    out = net(torch.zeros(1, 1).long())
    assert net(torch.ones(1, 1).long(), state=out["state"])["logits"].isfinite().all()


def test_before_training_a_memory_changes_nothing_but_the_share_of_copying():
    for size, at_most in ((0, 0.0), (4, 0.05)):
        torch.manual_seed(0)
        net = LanguageTransformer(30, Shape(16, 2, 2, 32, 16, norm="pre", copy=size), memory=Slots(8, 8, 8)).eval()
        first, second = torch.randint(30, (2, 1, 12))
        filled, empty = net(second, state=net(first)["state"]), net(second)
        change = (filled["logits"].softmax(-1) - empty["logits"].softmax(-1)).abs().max().item()
        assert change <= at_most and (change > 0) == (size > 0)


def test_a_rank_does_not_hang_on_rounding_noise():
    x = torch.full((2, 50), 0.37)
    x[1] += 1e-7 * torch.randn(50)
    order = coarse(x).argsort(1, descending=True)
    assert torch.equal(order[0], order[1]) and order[0].tolist() == list(range(50))


def test_state_is_no_part_of_the_weights(tokens):
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    read(net, tokens)
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not [name for name, value in net.state_dict().items() if value.shape[:1] == (ROWS,)]


def test_the_brief_s_parameter_count_and_its_parts():
    """Counted by hand: the brief's table, block by block."""
    width, vocab = 512, 50_257
    blocks = 6 * (4 * (width**2 + width) + 2 * 2 * width + width * 2048 + 2048 + 2048 * width + width)
    memory = 2 * (513 * 256 + 256) + 512 * 64 + 64 + 64 * 512 + 512 + 1
    metrics = 512 * 256 + 256 + 512 * 64 + 64
    expected = vocab * width + 1000 * width + blocks + memory + metrics + 1 + width * vocab + vocab
    given = settings_of("language_brief")
    with torch.device("meta"):
        net = LanguageTransformer(vocab, Shape(), Dropouts(), Slots(kind="brief"), Exploration())
    assert Shape(**given["shape"]) == Shape() and Slots(**given["memory"]) == Slots(kind="brief")
    assert sum(p.numel() for p in net.parameters()) == expected == 71_433_171
    assert sum(p.numel() for p in net.memory.parameters()) == memory + metrics == 329_281 + 164_160


def settings_of(variant: str) -> dict:
    return yaml.safe_load((ROOT / f"configs/variants/{variant}.yaml").read_text(encoding="utf-8"))["model"]["init_args"]


def test_our_own_model_of_that_size_is_not_larger():
    settings = settings_of("language_modern")
    with torch.device("meta"):
        net = LanguageTransformer(50_257, Shape(**settings["shape"]), Dropouts(), Slots(**settings["memory"]))
    assert 60e6 < sum(p.numel() for p in net.parameters()) <= 71.5e6


@pytest.mark.parametrize("bias", [True, False])
def test_the_loss_in_chunks_is_the_loss_with_its_gradients(bias, monkeypatch):
    """The plain fallback and torch's own operation against the scores of all positions at once."""

    def run(chunk, fallback=False):
        torch.manual_seed(0)
        hidden, weight = torch.randn(3, 7, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
        offset = torch.randn(11, requires_grad=True) if bias else None
        targets = torch.randint(-1, 11, (3, 7))
        with monkeypatch.context() as patch:
            if fallback:
                patch.delattr(F, "linear_cross_entropy", raising=False)
            nll = TokenLoss(chunk)(hidden, weight, offset, targets)
            (nll * torch.rand(3, 7)).sum().backward()
        assert nll.dtype == torch.float32 and not nll[targets < 0].any()
        return [nll, hidden.grad, weight.grad, *([offset.grad] if bias else [])]

    naive = run(0)
    for chunked in (run(4), run(4, fallback=True), run(1, fallback=True), run(100)):
        for one, two in zip(naive, chunked, strict=True):
            torch.testing.assert_close(one, two)


def test_the_fallback_also_works_in_bf16(monkeypatch):
    monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    hidden, weight, targets = torch.randn(2, 6, 8), torch.randn(11, 8), torch.randint(11, (2, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nll = TokenLoss(5)(hidden, weight, None, targets)
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll, TokenLoss()(hidden, weight, None, targets), atol=0.1, rtol=0.05)


@pytest.mark.parametrize("kind", ["keyed", "brief"])
def test_nll_is_that_of_the_logits_and_probabilities_sum_to_one(kind, tokens):
    net = network(kind)
    state = read(net, tokens[:2])[1]["state"]
    targets = tokens[3].clone()
    targets[0, :4] = -1
    logits = net(tokens[2], state=state)["logits"]
    nll = net(tokens[2], state=state, targets=targets)["nll"]
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
    torch.testing.assert_close(nll.flatten(), expected, atol=1e-4, rtol=1e-4)
    assert not nll[0, :4].any()
    if kind == "keyed":  # with the copying head, logarithms of probabilities
        torch.testing.assert_close(logits.exp().sum(2), torch.ones(ROWS, LENGTH), atol=1e-4, rtol=0)


def test_the_copying_head_gives_mass_to_words_of_the_window_and_of_the_memory(tokens):
    net = network()
    state = read(net, tokens[:1])[0]["state"]
    before = net(tokens[1], state=state)["logits"].exp()[0, -1]
    with torch.no_grad():
        net.copy.share.bias.copy_(torch.tensor([-9.0, 9.0]))  # all from the memory
    after = net(tokens[1], state=state)["logits"].exp()[0, -1]
    stored = sorted(set(net.memory.write(state)["token"][0].tolist()))
    others = [i for i in range(VOCAB) if i not in stored]
    assert after[stored].sum() > before[stored].sum() and (after[others] < before[others]).all()
    with torch.no_grad():
        net.copy.share.bias.copy_(torch.tensor([9.0, -9.0]))  # all from the window
    after = net(tokens[1], state=state)["logits"].exp()[0, -1]
    seen = sorted(set(tokens[1][0, 1:].tolist()))
    assert after[seen].sum() > 0.9


@pytest.mark.parametrize("from_memory", [False, True])
def test_what_is_not_copied_is_right_where_nearly_all_is_copied(from_memory):
    torch.manual_seed(0)
    copy = language_parts.Copy(8, 4, memory=True)
    with torch.no_grad():  # nearly all goes to the window, or to the memory, which find what they look for
        copy.share.bias.copy_(torch.tensor([-30.0, 15.0] if from_memory else [15.0, -30.0]))
        for linear in (copy.key, copy.query):
            linear.weight.copy_(40 * torch.eye(4, 8))
    hidden, nothing = torch.ones(1, 3, 8), torch.tensor([2e-7])
    found = language_parts.Found(torch.ones(1, 3, 1) - nothing, nothing.expand(1, 3), torch.zeros(1, 1).long())
    copied = copy(hidden, torch.zeros(1, 3).long(), None, found)
    shares = torch.tensor([0.0, *copy.share.bias.tolist()]).double().softmax(0)
    # the window finds nothing at the first position only
    expected = shares[0] + shares[2] * 2e-7 + shares[1] * torch.tensor([1.0, 0.0, 0.0]).double()
    torch.testing.assert_close(copied.log_rest[0].double(), expected.log(), rtol=0, atol=1e-5)


def test_each_dropout_changes_training_only():
    tokens = torch.randint(VOCAB, (2, 12))
    for name in vars(Dropouts()):
        torch.manual_seed(0)
        net = LanguageTransformer(VOCAB, OURS, Dropouts(**{"dropout": 0.0, name: 0.5}))
        one, two = (net.train()(tokens)["logits"] for _ in range(2))
        assert not torch.equal(one, two), name
        assert torch.equal(net.eval()(tokens)["logits"], net(tokens)["logits"]), name
    with pytest.raises(ValueError, match="word_dropout"):
        Dropouts(word_dropout=1.0)


def test_a_dropped_word_is_dropped_wherever_it_stands():
    net = LanguageTransformer(VOCAB, OURS, Dropouts(dropout=0.0, word_dropout=0.5)).train()
    tokens = torch.arange(VOCAB).repeat(2, 1)[:, :30]
    x = net._embed(tokens, 0)
    gone = (x == 0).all(2)
    assert torch.equal(gone[0], gone[1]) and 0 < gone[0].float().mean() < 1


def test_exploration_is_bounded_learned_scheduled_and_of_training_only():
    settings = Exploration(initial=0.1, maximum=0.4, end=0.25, steps=10)
    noise = Noise(settings)
    assert noise.scale.item() == pytest.approx(0.1)
    for value in (-50.0, 50.0):
        with torch.no_grad():
            noise.raw.fill_(value)
        assert 0 <= noise.scale.item() <= 0.4 + 1e-6
    assert [settings.factor(step) for step in (0, 10, 99)] == pytest.approx([1.0, 0.25, 0.25])
    assert 0.25 < settings.factor(5) < 1
    for kind in ("gaussian", "uniform"):
        noise = Noise(Exploration(initial=0.2, kind=kind))
        assert noise(torch.zeros(200, 200)).std().item() == pytest.approx(0.2, rel=0.05)
    net = network(memory=False, exploration=Exploration())
    tokens = torch.randint(VOCAB, (2, 12))
    assert torch.equal(net(tokens)["logits"], net(tokens)["logits"])
    net.train()
    assert not torch.equal(net(tokens)["logits"], net(tokens)["logits"])
    net.noise.factor.fill_(0.0)
    assert torch.equal(net(tokens)["logits"], net(tokens)["logits"])
    with pytest.raises(ValueError, match="initial < maximum"):
        Exploration(initial=0.5, maximum=0.5)


def test_weights_to_look_at_are_made_on_request_and_right(tokens):
    net = network()
    state = read(net, tokens[:1])[0]["state"]
    plain, looked = net(tokens[1], state=state), net(tokens[1], state=state, look=True)
    assert torch.equal(plain["logits"], looked["logits"]) and "attention" not in plain
    attention = looked["attention"]
    assert attention.shape == (2, ROWS, 4, LENGTH, LENGTH)
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
    assert not attention.triu(1).any()
    assert looked["slots"].shape == (ROWS, LENGTH, 16) and (looked["slots"].sum(2) <= 1 + 1e-5).all()


def test_too_many_tokens_are_refused():
    with pytest.raises(ValueError, match="65 tokens are more than max_len=64"):
        network(memory=False)(torch.zeros(1, 65, dtype=torch.long))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"heads": 3}, "heads=3"), ({"writes": 17, "slots": 16}, "writes=17"), ({"decay": 0.0}, "decay")],
)
def test_sizes_of_a_memory_that_do_not_fit(wrong, said):
    with pytest.raises(ValueError, match=said):
        Slots(**{"slots": 32, "width": 16, "writes": 8, **wrong})


def test_one_graph_without_breaks(tokens):
    """Traced whole, without the compiler behind it, which would cost a minute."""
    net = network().train()
    state = read(net, tokens[:1])[0]["state"]
    plain = net(tokens[1], state=state, targets=tokens[2])["nll"]
    traced = torch.compile(copy.deepcopy(net), backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(tokens[1], state=state, targets=tokens[2])["nll"], plain)
    assert language_parts.Copied.__dataclass_fields__.keys() >= {"window", "slots"}


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler speaks of itself
def test_a_compiled_network_trains_as_the_plain_one_in_bf16(tokens):
    net = network().train()
    compiled = copy.deepcopy(net)
    compiled.compile(fullgraph=True)
    assert compiled.state_dict().keys() == net.state_dict().keys()
    state = read(net, tokens[:1])[0]["state"]
    losses = []
    for one in (net, compiled):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses.append(one(tokens[1], state=state, targets=tokens[2])["nll"])
        losses[-1].mean().backward()
    torch.testing.assert_close(losses[0], losses[1], atol=0.1, rtol=0)
    for (name, a), b in zip(net.named_parameters(), compiled.parameters(), strict=True):
        assert (a.grad - b.grad).abs().max() < 0.05, name
