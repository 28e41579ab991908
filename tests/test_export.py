"""The verb `export`: files answer as the network does, for any batch size and length; what cannot be had is said."""

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from lightning.pytorch import LightningModule

from lightning_project.exits import ExportError, exit_code
from lightning_project.export import TOLERANCE, Samples, beginning, compare
from lightning_project.export_formats import FORMATS, write_int8
from modules.exporting import Exported, free_axes
from modules.language import LanguageModel
from modules.nets.language import Shape
from modules.nets.memory import Slots
from modules.nets.papers_pooling import HierarchicalPool
from modules.nets.signs import SignTransformer
from modules.plants import PlantsClassifier
from tests.running import NAME, SYSTEMS, code, data_of_run, fitted_run

pytestmark = pytest.mark.filterwarnings("ignore:Attribute 'loss' is an instance of `nn.Module`")
ROWS = 24


@pytest.fixture
def copied(system, tmp_path_factory, tmp_path):
    """A copy of the fitted run, in the default folder of runs."""
    folder = tmp_path / "runs" / system / NAME
    shutil.copytree(fitted_run(tmp_path_factory, system), folder)
    return folder


def export(folder, *words):
    return code(["export", "--ckpt_path", str(folder), "--rows", str(ROWS), *words], config=False)


def samples(folder):
    """Inputs of validation samples one by one and in batches, and what the network answers, without the verb."""
    checkpoint = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    model = LightningModule.load_from_checkpoint(folder / "checkpoints/best.ckpt", map_location="cpu").eval()
    data = data_of_run(folder, checkpoint)
    data.bucket, found = False, []
    for size, count in ((1, ROWS), (12, 2)):
        data.batch_size = size
        for batch in islice(data.val_dataloader(), count):
            inputs = model.net_inputs(batch)
            with torch.no_grad():
                found.append((inputs, {name: x.numpy() for name, x in model.export_answers(inputs).items()}))
    return found, model


def differences(pairs, run):
    """The largest difference and the share of equal answers, over samples."""
    largest, same = 0.0, []
    for inputs, expected in pairs:
        got = run(inputs)
        first = next(iter(expected))
        same += (got[first].argmax(-1) == expected[first].argmax(-1)).ravel().tolist()
        largest = max([largest, *(float(np.abs(got[name] - x).max()) for name, x in expected.items())])
    return largest, float(np.mean(same))


def halved(name, x, facts):
    """An input with half of every axis that may have any size, but for the samples."""
    shape = next(each["shape"] for each in facts["inputs"] if each["name"] == name)
    for axis, size in enumerate(shape):
        if isinstance(size, str) and axis:
            x = x.narrow(axis, 0, x.shape[axis] // 2)
    return x.contiguous()


def onnx_run(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # as the verb does: a sum in another order may be another number in int8
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]

    def run(inputs):
        given = {each.name: inputs[each.name].numpy() for each in session.get_inputs()}
        return dict(zip(names, session.run(None, given), strict=True))

    return run, session


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_files_answer_as_the_network_does_for_any_batch_and_length(system, copied, capsys):
    assert export(copied) == 0
    out = capsys.readouterr().out
    folder = copied / "export"
    facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    pairs, model = samples(copied)
    sizes = {len(next(iter(inputs.values()))) for inputs, _ in pairs}
    assert {1, 12} <= sizes
    run, session = onnx_run(folder / "model.onnx")
    program = torch.export.load(folder / "model.pt2").module()

    def run_torch(inputs):
        with torch.no_grad():
            return {name: x.numpy() for name, x in program(inputs).items()}

    halves = [({name: halved(name, x, facts) for name, x in inputs.items()}, None) for inputs, _ in pairs[-2:]]
    with torch.no_grad():
        cut = [(inputs, {name: x.numpy() for name, x in model.export_answers(inputs).items()}) for inputs, _ in halves]
    for name, runs, limit in (
        ("onnx", run, 1e-5),
        ("torch", run_torch, 1e-6),
        ("int8", onnx_run(folder / "model.int8.onnx")[0], 0.1),
    ):
        largest, same = differences(pairs, runs)
        assert largest < limit, name
        assert differences(cut, runs)[0] < limit, f"{name} at half the length"
        kept = facts["formats"][name]
        assert kept["max_difference"] == pytest.approx(largest, abs=1e-6)  # what is printed is what a user finds
        assert kept["top1_agreement"] == pytest.approx(same, abs=0.02)
        assert kept["bytes"] == (folder / kept["file"]).stat().st_size and kept["ms"] > 0
        assert f"{name} " in out
    assert facts["class_names"] == model.class_names and not facts["refused"]
    assert facts["outputs"] == [each.name for each in session.get_outputs()]
    named = {each["name"]: each["shape"] for each in facts["inputs"]}
    assert {each.name: each.shape for each in session.get_inputs()}.items() <= named.items()
    assert all(shape[0] == "batch" for shape in named.values())


@pytest.fixture
def system():
    return "signs"


def test_convolutions_in_int8_take_the_range_of_activations_from_samples(tmp_path):
    """With activations quantised as they come, ONNX Runtime takes several times as long as in float."""
    torch.manual_seed(0)
    model = PlantsClassifier(optimizer=torch.optim.AdamW, backbone="resnet10t", num_classes=5, image_size=32).eval()
    model.class_names = list("abcde")
    batches = [{"image": torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)} for _ in range(4)]
    run = write_int8(model, batches, {"image": {0: "batch"}}, tmp_path / "model.int8.onnx")
    kinds = {node.op_type for node in onnx.load(tmp_path / "model.int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
    assert not {"DynamicQuantizeLinear", "ConvInteger"} & kinds
    for inputs in (batches[0], {"image": batches[1]["image"][:1]}):
        with torch.no_grad():
            expected = Exported(model)(inputs)["prob"].numpy()
        assert np.abs(run(inputs)["prob"] - expected).max() < 0.02


def confident() -> LanguageModel:
    """A language model that copies nearly all its words: to its vocabulary less is left than rounding."""
    torch.manual_seed(0)
    shape = Shape(16, 2, 2, 32, 32, "pre", "rotary", gated=True, bias=False, tied=True, copy=8)
    model = LanguageModel(optimizer=torch.optim.AdamW, vocab_size=40, shape=shape, memory=Slots(8, 8, 4)).eval()
    with torch.no_grad():
        model.net.copy.share.bias.copy_(torch.tensor([17.0, -20.0]))
        model.net.copy.key.weight.mul_(10)  # a place is found, not none
    return model


def text_samples(count: int = 4, length: int = 16) -> Samples:
    torch.manual_seed(0)
    flags = torch.zeros(count, length, dtype=torch.bool)
    batch = {"tokens": torch.randint(40, (count, length)), "starts": flags, "write": ~flags}
    ones = [{name: x[i : i + 1] for name, x in batch.items()} for i in range(count)]
    return Samples([*ones, *map(beginning, ones)], [batch], {name: {0: "batch", 1: "length"} for name in batch})


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_a_language_model_that_copies_surely_answers_the_same_for_any_length(form, tmp_path):
    model, samples = confident(), text_samples()
    likely = Exported(model)(samples.example)["log_prob"].exp()
    assert (likely.sum(-1) - 1).abs().max() < 1e-4 and likely[:, 2:].amax(-1).min() > 0.15
    run = FORMATS[form].write(model, samples.batches, samples.axes, tmp_path / "model")
    assert compare(run, Exported(model), samples)["max_difference"] < TOLERANCE / 10


@pytest.mark.slow
def test_the_files_of_a_language_model_take_any_length_and_say_what_they_answer(tmp_path_factory, capsys):
    folder = fitted_run(tmp_path_factory, "language")
    assert export(folder, "--formats", "torch", "--out", "shipped") == 0
    facts = json.loads(Path("shipped/export.json").read_text(encoding="utf-8"))
    shapes = {each["name"]: each["shape"] for each in facts["inputs"]}
    assert {*shapes} == {"tokens", "starts", "write"}
    assert all(shape == ["batch", "length"] for shape in shapes.values())
    assert "no memory" in facts["answers"] and f"answers: {facts['answers']}" in capsys.readouterr().out
    assert facts["formats"]["torch"]["max_difference"] < 1e-5


def test_what_is_not_asked_for_is_not_made(copied, tmp_path):
    assert export(copied, "--formats", "torch", "--out", "elsewhere") == 0
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["export.json", "model.pt2"]


def test_a_network_that_cannot_be_exported_is_said(copied, capsys, monkeypatch):
    forward = SignTransformer.forward
    monkeypatch.setattr(  # a branch that depends on the values is in no graph
        SignTransformer, "forward", lambda self, x, mask=None: forward(self, x if bool(x.sum() > -1e9) else -x, mask)
    )
    assert export(copied) == 1
    captured = capsys.readouterr()
    said = [line for line in captured.out.splitlines() if "cannot be exported: " in line]
    assert [line.split()[0] for line in said] == ["onnx", "torch", "int8"]
    assert captured.err.splitlines()[-1].startswith("error: nothing was exported: onnx: ")
    assert list((copied / "export").iterdir()) == []


def test_one_format_that_cannot_be_had_leaves_the_others(copied, capsys, monkeypatch):
    forward = SignTransformer.forward
    monkeypatch.setattr(  # a function that ONNX does not have
        SignTransformer, "forward", lambda self, x, mask=None: forward(self, x + 0 * torch.special.bessel_y1(x), mask)
    )
    monkeypatch.setattr(torch.Tensor, "masked_fill", lambda x, m, v: torch.where(m, x.new_full((), v), x.nan_to_num()))
    assert export(copied, "--formats", "onnx,torch") == 0
    out = capsys.readouterr().out
    assert out.count("cannot be exported: ") == 1 and "onnx cannot be exported: " in out
    facts = json.loads((copied / "export" / "export.json").read_text(encoding="utf-8"))
    assert set(facts["formats"]) == {"network", "torch"} and set(facts["refused"]) == {"onnx"}


def test_a_missing_package_is_named_with_its_extra(copied, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert export(copied, "--formats", "onnx") == 1
    assert exit_code(ExportError("nothing was exported")) == (1, "nothing was exported")
    assert "onnxruntime is missing: from the checkout, pip install -e '.[export]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--formats", "onx"], "unknown format 'onx': choose from onnx, torch, int8"),
        (["--formats", ","], "name at least one format"),
        (["--rows", "1"], "at least two rows"),
    ],
)
def test_wrong_words_are_refused(words, said, copied, capsys):
    assert export(copied, *words) == 2
    assert said in capsys.readouterr().err


def test_without_a_checkpoint_nothing_is_exported(capsys):
    assert code(["export"]) == 2
    assert "export needs trained weights" in capsys.readouterr().err


def test_axes_that_vary_together_share_a_name():
    def batch(rows, length, other):
        return {"x": torch.zeros(rows, length, 3), "y": torch.zeros(rows, length), "ids": torch.zeros(rows, 4, other)}

    axes = free_axes([batch(2, 5, 4), batch(2, 7, 4), batch(3, 7, 6)])
    assert axes == {"x": {0: "batch", 1: "length"}, "y": {0: "batch", 1: "length"}, "ids": {0: "batch", 2: "length_2"}}
    assert free_axes([batch(2, 5, 4), batch(3, 5, 4)])["x"] == {0: "batch"}


def test_what_a_mask_is_about_has_any_length_though_all_samples_have_one():
    real = torch.ones(2, 4, dtype=torch.bool)
    states = torch.zeros(2, 4, 4)
    batch = {"x": states, "mask": real, "word_ids": torch.zeros(2, 4), "word_mask": real, "word_links": states,
             "word_states": states}  # fmt: skip
    axes = free_axes([batch, {name: x[:1] for name, x in batch.items()}])
    word = {0: "batch", 1: "word_length"}
    assert axes["x"] == axes["mask"] == {0: "batch", 1: "length"}
    assert axes["word_ids"] == axes["word_mask"] == axes["word_states"] == word
    assert axes["word_links"] == word | {2: "word_length"}


def test_blocks_of_an_exported_pool_take_any_length():
    """Twenty states are two whole blocks: nothing is cut off there, but is from 31."""
    pool, free = HierarchicalPool(4, block=10).eval(), torch.export.Dim.DYNAMIC
    example = torch.randn(2, 20, 4), torch.ones(2, 20, dtype=torch.bool)
    program = torch.export.export(pool, example, dynamic_shapes=({0: free, 1: free},) * 2).module()
    other = torch.randn(3, 31, 4), torch.rand(3, 31) > 0.3
    torch.testing.assert_close(program(*other), pool(*other))
