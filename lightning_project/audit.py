"""The verb `audit`: what is wrong with the data and the split, before anything is trained."""

from pathlib import Path
from typing import TYPE_CHECKING

from callbacks.report_files import write_json, write_text
from callbacks.stratified_split import StratifiedSplit
from datamodules.base import SplitDataModule
from datamodules.errors import DataError
from lightning_project.audit_gcode import about_lines
from lightning_project.audit_language import about_text
from lightning_project.run_folder import KeepRun
from modules import statistics

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from modules.base import System


def audit(
    self: "Trainer", model: "System", datamodule: SplitDataModule, part: str = "val", write_split: str | None = None
) -> None:
    """Look for leaks, conflicts and duplicates, and print what simple models reach; no training.

    Args:
        self: The Trainer.
        model: Not used, but part of every config.
        datamodule: The data.
        part: Part on which the baselines are judged; choices are made on validation.
        write_split: Folder to write the parts of the split to, as files that can be given back as data.
    """
    split = next(callback for callback in self.callbacks if isinstance(callback, StratifiedSplit))  # type: ignore[attr-defined]
    keeper = next(callback for callback in self.callbacks if isinstance(callback, KeepRun))  # type: ignore[attr-defined]
    datamodule.trainer = self
    self.datamodule = datamodule  # type: ignore[attr-defined]
    datamodule.setup("fit")
    folder = Path(self.default_root_dir) / "audit"
    try:
        table = split.draw(datamodule)  # what the config asks for, also beside a run that has a split already
    except DataError:
        if page := _explained(datamodule, folder):
            keeper.keep()
            print(page)
        raise
    report = split.check(datamodule, table, raise_on_leak=False)  # all findings first, then the verdict
    datamodule.apply_split(table)
    keeper.keep()
    page, facts = datamodule.split_page(table)
    more = about_text(datamodule, part) if model.PREDICTS == "text" else _simple_models(datamodule, part)
    if hasattr(datamodule, "line_baselines"):
        more += about_lines(datamodule, table, split.fractions, split.seed, part)
    text = report.to_markdown() + page + more
    print(text)
    write_text(folder / "AUDIT.md", text)
    write_json(folder / "audit.json", report.to_dict() | ({"explained": facts} if facts else {}))
    print(f"written: {folder / 'AUDIT.md'}, {folder / 'audit.json'}")
    if write_split is not None:
        counts = datamodule.write_parts(Path(write_split), table)
        print(f"written: {write_split} ({', '.join(f'{name}: {count}' for name, count in counts.items())})")
    if report.leaks:
        raise DataError(f"{len(report.leaks)} leak(s): " + "; ".join(leak.message for leak in report.leaks))


def _simple_models(datamodule: SplitDataModule, part: str) -> str:
    """Return what simple models reach, as a section."""
    assert datamodule.y is not None
    y = datamodule.y[datamodule.indices(part)]
    text = f"\n## Baselines on {part} ({len(y)} samples)\n\n"
    text += "| model | accuracy | macro F1 |\n|---|---|---|\n"
    for name, prob in datamodule.baselines(part).items():
        if prob is None:
            text += f"| {name} | not run: install the extra `baselines` | |\n"
            continue
        found = statistics.classification_metrics(prob, y, datamodule.class_names)
        text += f"| {name} | {found['accuracy']:.3f} | {found['macro_f1']:.3f} |\n"
    return text


def _explained(datamodule: SplitDataModule, folder: Path) -> str:
    """Say what the source's own parts would allow, before they are refused."""
    assert datamodule.records is not None
    given = datamodule.records["given"]
    page, facts = datamodule.split_page(datamodule.records.assign(part=given.where(given != "", "dropped")))
    if page:
        write_text(folder / "AUDIT.md", page)
        write_json(folder / "audit.json", {"explained": facts})
    return page
