"""A pair as two functions: they write what the system writes, as modules and as files of ONNX, for any batch size."""

import json
import re
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from lightning.pytorch import LightningModule

from lightning_project.export_gcode import eager_run, write_pair
from modules.gcode_decoding import Writer
from modules.gcode_shipping import WINDOW, Encode, Step, write_lines
from tests.running import ROOT, data_of_run, fitted_run

pytestmark = pytest.mark.filterwarnings("ignore:Attribute 'loss' is an instance of `nn.Module`")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A fitted pair, windows of its validation part, and what the first step is given."""
    folder = fitted_run(tmp_path_factory, "gcode_decoder")
    checkpoint = folder / "checkpoints" / "best.ckpt"
    model = LightningModule.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    data = data_of_run(folder, torch.load(checkpoint, weights_only=True))
    batch = next(iter(data.val_dataloader()))
    windows = {name: batch[name] for name in WINDOW}
    with torch.no_grad():
        context, _ = model.pair.encode(**windows)
        given = Step(model).start({name: x[:1] for name, x in context.items()})
    return model, windows, {name: x.numpy() for name, x in given.items()}


def arrays(windows, rows=None):
    return {name: x[:rows].numpy() for name, x in windows.items()}


def test_the_loop_around_two_functions_writes_what_the_system_writes(shipped):
    model, windows, first = shipped
    limit = model.hparams["max_tokens"]
    found = write_lines(eager_run(Encode(model)), eager_run(Step(model)), first, arrays(windows), limit)
    with torch.no_grad():
        context, logits = model.pair.encode(**windows)
        expected = Writer(model.pair.decoder, model.tables, model.layout, model.decoding).write(context, limit)
        error = model.pair.encoder(**windows)["error"]
    length = found["tokens"].shape[1]
    np.testing.assert_array_equal(found["tokens"], expected.tokens[:, :length])
    np.testing.assert_array_equal(found["fields"], expected.fields[:, :length])
    np.testing.assert_allclose(found["log_prob"], expected.log_prob[:, :length], atol=1e-5)
    np.testing.assert_allclose(found["prob"], logits.softmax(1), atol=1e-6)
    np.testing.assert_allclose(found["anomaly"], error, rtol=1e-5)
    assert not (expected.tokens[:, length:] != 0).any()


def test_nothing_is_written_after_the_end():
    """A step that ends one line at its first token and the other at its third."""
    calls = iter(([2, 7], [5, 8], [6, 2], [9, 9]))

    def step(given):
        token = np.array(next(calls))
        fields = np.repeat(token[:, None], 4, 1)
        return {"log_prob": -token.astype(float), "next_token": token, "next_fields": fields}

    first = {"token": np.array([1]), "fields": np.full((1, 4), -1), "place": np.array(0)}
    window = {"continuous": np.zeros((2, 3, 1))}
    found = write_lines(lambda given: {"prob": np.ones((2, 1))}, step, first, window, 9)
    assert found["tokens"].tolist() == [[2, 0, 0], [7, 8, 2]]
    assert found["fields"][0, 1:].tolist() == [[-1] * 4] * 2
    assert found["log_prob"].tolist() == [[-2, 0, 0], [-7, -8, -2]]


def test_the_snippet_of_the_readme_takes_one_window_through_both_stages(shipped, tmp_path_factory, tmp_path, capsys):
    from tests.fake_data.gcode import folder as tiny_folder
    from tests.fake_data.gcode_decoder_toy import encoder_run

    shutil.copytree(encoder_run(), tmp_path / "runs" / "gcode_encoder" / "first")
    shutil.copytree(fitted_run(tmp_path_factory, "gcode_decoder"), tmp_path / "runs" / "gcode_decoder" / "first")
    tiny_folder(tmp_path / "tiny")
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## gcode\n")[1].split("\n## ")[0]
    exec(re.search(r"^```python\n(.*?)^```$", section, re.M | re.S).group(1), {})
    operation, _, rest = capsys.readouterr().out.strip().splitlines()[-1].partition(": ")
    assert operation in shipped[0].class_names and re.fullmatch(r".+, anomaly \d+\.\d{3}", rest)


@pytest.mark.slow
def test_the_files_write_the_same_lines(shipped, tmp_path, capsys):
    model, windows, _ = shipped
    (tmp_path / "out").mkdir()
    write_pair(model, [windows], tmp_path / "out", int8=True)
    facts = json.loads((tmp_path / "out" / "pair.json").read_text(encoding="utf-8"))
    assert facts["compared"]["onnx"]["same_line"] == 1.0 and facts["class_names"] == model.class_names
    assert facts["vocabulary"] == model.tables.vocabulary.state()
    assert (tmp_path / "out" / "step.int8.onnx").stat().st_size < (tmp_path / "out" / "step.onnx").stat().st_size
    assert "lines by encode and step, onnx" in capsys.readouterr().out

    def run(name):
        session = onnxruntime.InferenceSession(str(tmp_path / "out" / name), providers=["CPUExecutionProvider"])
        names, outputs = ([each.name for each in side] for side in (session.get_inputs(), session.get_outputs()))
        return lambda given: dict(zip(outputs, session.run(None, {key: given[key] for key in names}), strict=True))

    files, eager = (run("encode.onnx"), run("step.onnx")), (eager_run(Encode(model)), eager_run(Step(model)))
    first = dict(np.load(tmp_path / "out" / "start.npz"))
    for rows in (1, 5):
        given = arrays(windows, rows)
        found, expected = (write_lines(*pair, first, given, facts["limit"]) for pair in (files, eager))
        for name in ("tokens", "fields"):
            np.testing.assert_array_equal(found[name], expected[name])
        for name in ("prob", "anomaly", "log_prob"):
            np.testing.assert_allclose(found[name], expected[name], atol=1e-4)
