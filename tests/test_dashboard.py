"""The W&B workspace as code: its model is built without a network and shows what the systems log."""

import json
from pathlib import Path

import pytest

pytest.importorskip("wandb_workspaces")
ROOT = Path(__file__).resolve().parents[1]


def panels(workspace: dict) -> list[dict]:
    sections = workspace["spec"]["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


@pytest.fixture(scope="module", params=["papers", "signs"])
def workspace(request):
    from lightning_project.dashboard import model

    return model(request.param, "demo", "somebody")


def test_it_has_a_curve_for_every_epoch_metric(workspace):
    shown = {name for panel in panels(workspace) for name in panel["config"].get("metrics", [])}
    assert {"train/loss", "val/loss", "val/macro_f1", "lr", "grad/norm"} <= shown


def test_it_shows_the_pictures_and_tables_of_the_report(workspace):
    from lightning_project.dashboard import PICTURES, TABLES

    text = json.dumps(workspace)
    assert all(f'"{name}"' in text for name in [*PICTURES, *TABLES])


def test_its_names_are_those_that_the_code_logs():
    """A renamed metric would leave an empty panel that nobody notices."""
    from callbacks import report_wandb
    from lightning_project.dashboard import CURVES, SYSTEMS
    from modules.metrics import build_metrics

    assert set(CURVES["Validation"]) == {f"val/{name}" for name in ("loss", "nll", *build_metrics(5).keys())}
    code = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "callbacks").glob("*.py")}
    assert all(f'"{name}"' in code["gradient_clipping"] for name in CURVES["Training"] if name.startswith("grad/"))
    for shown in SYSTEMS.values():
        pictures = {name.rsplit("/", 1)[-1] for name in shown.pictures}
        assert pictures <= {*report_wandb.PICTURES, "report"} and '"report":' in code["report_wandb"]
        tables = {name.rsplit("/", 1)[-1] for name in shown.tables}
        assert tables <= {f"{name}_table" for name in report_wandb.TABLES}
        assert 'f"{stage}/{path.stem}_table"' in code["report_wandb"]


def test_every_system_has_a_dashboard():
    from lightning_project.dashboard import SYSTEMS
    from tests.running import SYSTEMS as KNOWN

    assert set(SYSTEMS) == set(KNOWN)


def test_papers_show_their_further_tasks_their_top_2_and_the_papers_that_were_taken_for_others():
    from lightning_project.dashboard import model
    from modules.papers import Auxiliary

    text = json.dumps(model("papers", "demo", "somebody"))
    tasks = Auxiliary(1, 1, 1).weights()
    assert all(f'"train/aux_{name}"' in text for name in tasks) and len(tasks) == 3
    assert "test/top2" in text and "test/top3" not in text and '"test/mistakes_table"' in text
    assert "train/aux" not in json.dumps(model("signs", "demo", "somebody"))


def test_language_shows_perplexities_and_what_was_written():
    from lightning_project.dashboard import model, test_metrics

    text = json.dumps(model("language", "demo", "somebody"))
    system = (ROOT / "modules" / "language.py").read_text(encoding="utf-8")
    for name in ("train/ppl", "train/noise", "val/nll", "val/ppl", "val/word_ppl", "val/bpb"):
        assert f'"{name}"' in system and name in text
    assert test_metrics("language")[0] == "test/word_perplexity"
    assert "val/accuracy" not in text and '"test/samples_table"' in text and '"ascending": true' in text.lower()


def test_gcode_shows_its_heads_lines_and_recordings():
    from lightning_project.dashboard import model, test_metrics

    text = json.dumps(model("gcode_decoder", "demo", "somebody"))
    losses = (ROOT / "modules" / "gcode_losses.py").read_text(encoding="utf-8")
    for name in ("type", "command", "param", "sign", "digits", "value", "flat"):
        assert f'"{name}": self.{name}' in losses and f'"train/loss_{name}"' in text
    system = (ROOT / "modules" / "gcode_decoder.py").read_text(encoding="utf-8")
    for name in ("token_accuracy", "line_accuracy", "operation_accuracy"):
        assert f'"{name}"' in system and f'"val/{name}"' in text
    assert test_metrics("gcode_decoder")[0] == "test/line_accuracy" and '"test/recordings_table"' in text
    encoder = json.dumps(model("gcode_encoder", "demo", "somebody"))
    assert '"train/aux_reconstruction"' in encoder and '"test/anomaly_table"' in encoder


def test_runs_are_sorted_by_the_metric_that_judges_them(workspace):
    assert "val/macro_f1" in json.dumps(workspace["spec"]["section"]["runSets"])


def test_an_unknown_system_is_refused():
    from lightning_project.dashboard import build

    with pytest.raises(ValueError, match=r"'birds'.*signs"):
        build("birds", "demo", "somebody")


def test_the_command_prints_the_model_and_contacts_nobody(capsys):
    from lightning_project.dashboard import main

    main(["--system", "signs", "--project", "demo", "--print"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["project"] == "demo" and len(panels(printed)) > 10


def test_saving_needs_an_entity(capsys):
    from lightning_project.dashboard import main

    with pytest.raises(SystemExit) as stop:
        main(["--system", "signs", "--project", "demo"])
    assert stop.value.code == 2 and "--entity" in capsys.readouterr().err
