"""Explanations: pieces joined to words, pages that escape what papers hold, and a run whose attention is shown."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from lightning_project.explain import Looks, join
from lightning_project.explain_page import page, terminal
from tests.fake_data.papers_tensors import PaperTensors
from tests.fake_data.papers_toy import write
from tests.running import code, run
from tests.test_papers_system import Fixed, ready, system


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["[CLS]", "deep", "##er", "nets", "[SEP]"], ["[CLS]", "deeper", "nets", "[SEP]"]),
        (["<s>", "De", "eper", "Ġnets", "</s>"], ["<s>", "Deeper", "nets", "</s>"]),
        (["[CLS]", "▁deep", "er", "▁nets", "[SEP]"], ["[CLS]", "deeper", "nets", "[SEP]"]),
        (["[CLS]", "##er", "[SEP]"], ["[CLS]", "er", "[SEP]"]),
    ],
)
def test_pieces_become_words_and_no_weight_is_lost(pieces, words):
    weights = np.random.default_rng(0).dirichlet(np.ones(len(pieces))).tolist()
    found = join(pieces, weights)
    assert [each["word"] for each in found] == words
    assert sum(each["weight"] for each in found) == pytest.approx(1)
    assert [each["special"] for each in found] == [True, *[False] * (len(words) - 2), True]
    if len(pieces) == 5 and len(words) == 4:
        assert found[1]["weight"] == pytest.approx(weights[1] + weights[2])
    with pytest.raises(ValueError, match="do not fit"):
        join(pieces, weights[1:])


def paper(title="A <b>title</b>", weight=0.9):
    words = [{"word": "<script>", "weight": weight, "special": False}, {"word": "x", "weight": 0.0, "special": False}]
    return {
        **{"id": "p1", "title": title, "answers": [{"class": "cs.AI", "probability": 0.6}]},
        "fields": {"title": {"words": words, "top": words[:1]}},
        "keywords": [{"word": "graph", "weight": 1.0}],
    }


def test_the_page_shades_words_and_escapes_what_a_paper_says():
    text = page([paper()])
    assert "<script>" not in text and "&lt;script&gt;" in text and "A &lt;b&gt;title" in text
    assert "rgba(47, 109, 178, 0.75)" in text and "rgba(47, 109, 178, 0.00)" in text
    assert "cs.AI 0.60" in text and "keywords" in text
    assert "nan" not in page([paper(weight=0.0)])  # no weight at all divides by nothing
    assert terminal([paper()]).splitlines()[2] == "  keywords  graph 1.00"


def test_settings_that_cannot_be_explained_are_refused(capsys):
    assert code(["explain"], system="papers") == 2
    assert "explain needs trained weights" in capsys.readouterr().err


def test_snapshots_are_explained_by_the_mean_of_their_attention():
    """What is predicted is the mean of the snapshots; the attention of one network would explain another answer."""
    model = ready(system(pooling="attention")).eval()
    data = PaperTensors()
    data.records = data.read_records()
    Fixed().setup(type("Trainer", (), {"datamodule": data}), model, "fit")
    batch = data.probe_batch(4)
    own = {name: value.clone() for name, value in model.state_dict().items() if name.startswith("net.")}
    model.members = [{name: value * scale for name, value in own.items()} for scale in (1.0, 30.0)]
    look = Looks(4)
    outputs = {"id": batch["id"], "prob": model.predict_probabilities(batch)}
    look.on_predict_batch_end(None, model, outputs, batch, 0)
    each = []
    for weights in model.members:
        other = ready(system(pooling="attention")).eval()
        other.load_state_dict(weights, strict=False)
        each.append(other.net.attention(**other.net_inputs(batch))["abstract"])
    assert (each[0] - each[1]).abs().max() > 1e-3
    for row, found in enumerate(look.looks):
        expected = torch.stack(each).mean(0)[row][batch["abstract_mask"][row]]
        assert found["fields"]["abstract"] == pytest.approx(expected.tolist(), abs=1e-6)
    model.members = None
    alone = Looks(4)
    alone.on_predict_batch_end(None, model, outputs, batch, 0)
    expected = each[0][0][batch["abstract_mask"][0]]
    assert alone.looks[0]["fields"]["abstract"] == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.slow
def test_a_run_is_explained(tmp_path, capsys):
    quick = [w for k in ("padding", "batch_order", "batch_size", "initial_loss") for w in (f"--probes.{k}", "false")]
    quick += ["--report.baselines", "false", "--trainer.max_epochs", "1", "--data.keywords", "4"]
    run(["fit", "--name", "a", *quick], system="papers")
    file = write(tmp_path, labels=False)
    capsys.readouterr()
    words = ["--name", "a", "--ckpt_path", "best", "--data.predict_path", str(file), *quick]
    run(["explain", *words, "--limit", "5"], system="papers")
    out = capsys.readouterr().out
    folder = tmp_path / "runs" / "papers" / "a" / "explain"
    papers = json.loads((folder / "explanations.json").read_text(encoding="utf-8"))["papers"]
    assert len(papers) == 5 and "explanations.html" in out
    run(["predict", *words], system="papers")
    table = pd.read_csv(folder.parent / "predict" / "predictions.csv", dtype={"id": str}).set_index("id")
    for one in papers:
        row = table.loc[one["id"]]
        assert [each["class"] for each in one["answers"]] == [row["prediction"], row["second"]]
        shown = [each["probability"] for each in one["answers"]]
        assert shown == pytest.approx([row["probability"], row["second_probability"]], abs=1e-5)
        for field in ("title", "abstract"):
            words_of = one["fields"][field]["words"]
            assert sum(each["weight"] for each in words_of) == pytest.approx(1, abs=1e-3)
            assert words_of[0]["special"] and words_of[-1]["special"] and len(one["fields"][field]["top"]) > 0
        assert all(each["weight"] >= 0 for each in one["keywords"])
        start = one["title"].split()[0].lower()  # the words are those of this paper
        assert one["fields"]["title"]["words"][1]["word"].lower().startswith(start[:2])
    assert code(["explain", *words, "--limit", "0"], system="papers") == 2
    assert "limit must be at least 1" in capsys.readouterr().err
