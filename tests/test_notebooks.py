"""Notebooks are made from the scripts beside them, define nothing, and run over run folders that the report wrote."""

import ast
import contextlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))


def test_every_notebook_has_its_script_and_the_other_way_round():
    assert (
        {p.stem for p in SCRIPTS}
        == {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}
        >= {"signs", "papers", "language", "gcode", "compare"}
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_equals_its_script(script):
    jupytext = pytest.importorskip("jupytext")
    wanted, stored = jupytext.read(script), jupytext.read(script.with_suffix(".ipynb"))
    made = [(cell.cell_type, cell.source) for cell in wanted.cells]
    assert made == [(cell.cell_type, cell.source) for cell in stored.cells], "make it again: see CONTRIBUTING.md"
    assert not any(cell.get("outputs") for cell in stored.cells), "notebooks are stored without outputs"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_defines_nothing(script):
    nodes = ast.walk(ast.parse(script.read_text(encoding="utf-8")))
    assert not [node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)]


def write_run(folder: Path, seed: int) -> Path:
    """A tested run of 3 classes and 30 samples, its files written by the report's own functions."""
    from callbacks import report_files as files
    from callbacks.report_metrics import evaluate
    from callbacks.report_stage import write_stage
    from modules import statistics

    rng = np.random.default_rng(seed)
    y = np.arange(30) % 3
    prob = rng.dirichlet(np.ones(3), size=30) + 0.6 * np.eye(3)[y]
    prob = (prob / prob.sum(1, keepdims=True)).astype(np.float32)
    ids, names = np.array([f"take-{i:02d}" for i in range(30)]), np.array(["Hola", "Gracias", "Clase"])
    found = files.Predictions(ids, np.array([f"person-{i // 2:02d}" for i in range(30)]), y, prob, names)
    values = statistics.classification_metrics(prob, y, list(names), 3)
    baselines = {"majority": np.full((30, 3), 1 / 3, dtype=np.float32)}
    metrics = evaluate(found, values, baselines, {"minirocket": "not installed"}, 50, 3) | {"part": "test"}
    run = {"system": "signs", "total_params": 10, "best_epoch": 1, "best_value": 0.5, "monitor": "val/macro_f1"}
    log = pd.DataFrame({"epoch": [0, 1], "lr": [1e-3, 1e-3], "train/loss": [1.0, 0.5], "val/loss": [1.0, 0.7]})
    write_stage(folder, "test", found, metrics, run, log)
    found.save(folder / "test" / "predictions_test.npz")
    files.write_json(folder / "run.json", run)
    files.write_csv(folder / "training_log.csv", log)
    return folder


def papers_run(folder: Path) -> Path:
    """A tiny run of `papers`: fitted, tested, explained, and beside an ablation's table."""
    from callbacks.report_files import write_csv
    from tests.running import run

    with contextlib.chdir(folder):
        run(["fit", "--name", "tiny"], system="papers")
        judged = ["--name", "tiny", "--ckpt_path", "best"]
        run(["test", *judged], system="papers")
        run(["explain", *judged, "--data.predict_part", "val", "--limit", "2"], system="papers")
    cells = {"cell": ["base", "focal"], "macro_f1": [0.5, 0.6], "macro_f1_std": [0.1, 0.1], "verdict": ["", "helped"]}
    write_csv(folder / "runs" / "papers" / "ablation" / "ablation.csv", pd.DataFrame(cells))
    return folder / "runs" / "papers" / "tiny"


def language_run(folder: Path) -> Path:
    """A tiny run of `language`: fitted, and tested by everything."""
    from tests.running import run

    with contextlib.chdir(folder):
        run(["fit", "--name", "tiny", "--trainer.max_epochs", "1"], system="language")
        judged = ["--judgement.metrics", "all", "--judgement.maps", "true"]
        run(["test", "--name", "tiny", "--ckpt_path", "best", *judged], system="language")
    return folder / "runs" / "language" / "tiny"


def plants_run(folder: Path) -> Path:
    """A tiny run of `plants`, fitted and tested."""
    from tests.running import run

    with contextlib.chdir(folder):
        run(["fit", "--name", "tiny", "--trainer.max_epochs", "1"], system="plants")
        run(["test", "--name", "tiny", "--ckpt_path", "best"], system="plants")
    return folder / "runs" / "plants" / "tiny"


def gcode_run(folder: Path) -> Path:
    """A tiny run of `gcode_decoder` over a tiny encoder: fitted, and tested beside the simple models."""
    from tests.running import run

    with contextlib.chdir(folder):
        run(["fit", "--name", "tiny", "--trainer.max_epochs", "1"], system="gcode_decoder")
        beside = ["--report.baselines", "true"]
        run(["test", "--name", "tiny", "--ckpt_path", "best", *beside], system="gcode_decoder")
    return folder / "runs" / "gcode_decoder" / "tiny"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Outputs of the notebooks, and of `compare` over runs that do not fit; one kernel, since each costs a start."""
    from callbacks.report_files import Predictions

    papers = papers_run(tmp_path_factory.mktemp("papers"))
    language = language_run(tmp_path_factory.mktemp("language"))
    plants = plants_run(tmp_path_factory.mktemp("plants"))
    gcode = gcode_run(tmp_path_factory.mktemp("gcode"))

    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    folder = tmp_path_factory.mktemp("signs")
    first, second, other = (write_run(folder / name, seed) for seed, name in enumerate(["first", "second", "other"]))
    stored = other / "test" / "predictions_test.npz"
    found = Predictions.load(stored)
    Predictions(found.id[::-1], found.group, found.y, found.prob, found.class_names).save(stored)

    def cells(name):
        return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells

    def first_code(name):
        return next(cell for cell in cells(name) if cell.cell_type == "code")

    def setting(**environment):
        return nbformat.v4.new_code_cell(f"import os; os.environ.update({environment!r})")

    refused = [first_code("compare")]
    refused[0].metadata["tags"] = ["raises-exception"]
    plan = {
        "signs": [setting(RUN=str(first)), *cells("signs")],
        "papers": [setting(RUN=str(papers), ABLATION=str(papers.parent / "ablation")), *cells("papers")],
        "papers alone": [setting(ABLATION=str(papers)), first_code("papers"), cells("papers")[-1]],
        "language": [setting(RUN=str(language)), *cells("language")],
        "plants": [setting(RUN=str(plants)), *cells("plants")],
        "gcode": [setting(RUN=str(gcode)), *cells("gcode")],
        "compare": [setting(RUNS=os.pathsep.join([str(first), str(second)])), *cells("compare")],
        "refused": [setting(RUNS=os.pathsep.join([str(first), str(other)])), *refused],
    }
    everything = [cell for part in plan.values() for cell in part]
    for number, cell in enumerate(everything):
        cell["id"] = f"cell-{number}"
    notebook = nbformat.v4.new_notebook(cells=everything)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": ROOT / "notebooks"}}).execute()
    done = iter(notebook.cells)
    return {name: [out for _ in part for out in next(done).get("outputs", [])] for name, part in plan.items()}


def shown(outputs: list[dict], kind: str) -> list[str]:
    return ["".join(output["data"][kind]) for output in outputs if kind in output.get("data", {})]


def test_the_signs_notebook_runs(outputs):
    assert len(shown(outputs["signs"], "image/png")) == 3, "curves, confusion matrix and calibration are drawn"
    tables = "\n".join(shown(outputs["signs"], "text/html"))
    assert "majority" in tables and "Gracias" in tables and "first" in tables
    assert "30 samples in 15 groups" in "\n".join(shown(outputs["signs"], "text/markdown"))


def test_the_papers_notebook_runs(outputs):
    assert len(shown(outputs["papers"], "image/png")) == 3, "curves, confusion matrix and calibration are drawn"
    tables = "\n".join(shown(outputs["papers"], "text/html"))
    assert "tfidf" in tables and "f1 of tfidf" in tables and "cs.AI" in tables
    assert "abstract" in tables and "all_categories" in tables, "mistakes stand with their text"
    assert "focal" in tables and "macro_f1_std" not in tables
    text = "\n".join(shown(outputs["papers"], "text/markdown"))
    assert "papers in" in text and "**: cs." in text, "explained papers stand with their answers"


def test_the_papers_notebook_does_without_an_ablation(outputs):
    assert "No ablation at" in "\n".join(shown(outputs["papers alone"], "text/markdown"))


def test_the_language_notebook_runs(outputs):
    assert len(shown(outputs["language"], "image/png")) == 4, "curves, distances, attention and slots are drawn"
    tables = "\n".join(shown(outputs["language"], "text/html"))
    for said in ("Kneser-Ney 5-gram, tokens", "memory off", "repetition_1", "gap of validation to train"):
        assert said in tables
    text = "\n".join(shown(outputs["language"], "text/markdown"))
    assert "documents in" in text and "per word" in text


def test_the_plants_notebook_runs(outputs):
    assert len(shown(outputs["plants"], "image/png")) == 5, "the tail, curves, two grids of pictures, calibration"
    tables = "\n".join(shown(outputs["plants"], "text/html"))
    assert "hog_logistic" in tables and "tail: fewer than 5" in tables and "specimen-" in tables
    assert "species; " in "\n".join(shown(outputs["plants"], "text/markdown"))


def test_the_gcode_notebook_runs(outputs):
    assert len(shown(outputs["gcode"], "image/png")) == 4, "curves of both stages, operations, recordings"
    tables = "\n".join(shown(outputs["gcode"], "text/html"))
    for said in ("table: operation + prefix", "trees: machine position only", "encoder", "sign", "median", "written"):
        assert said in tables, said
    text = "\n".join(shown(outputs["gcode"], "text/markdown"))
    assert "intervals resample recordings" in text and "99.0% of" in text


def test_the_comparison_notebook_runs(outputs):
    assert len(shown(outputs["compare"], "image/png")) == 1
    assert "a minus b" in "\n".join(shown(outputs["compare"], "text/html"))


def test_the_comparison_notebook_refuses_other_samples(outputs):
    errors = [out["evalue"] for out in outputs["refused"] if out["output_type"] == "error"]
    assert errors == ["other was tested on other samples than first"]
