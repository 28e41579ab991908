"""The launcher: Lightning's command line over a run folder, with this project's callbacks and verbs."""

import sys
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import datamodules
import modules
from callbacks.augmentation import Augmentation
from callbacks.checkpoint import AtomicCheckpointIO, Checkpoint
from callbacks.early_stopping import EarlyStopping
from callbacks.ensemble import Ensemble
from callbacks.epoch_lines import EpochLines
from callbacks.gradient_clipping import GradientClipping
from callbacks.init_from import InitFrom
from callbacks.probes import Probes
from callbacks.report_gcode import GcodeJudgement
from callbacks.report_language import LanguageJudgement
from callbacks.run_report import RunReport
from callbacks.stratified_split import StratifiedSplit
from datamodules.base import SplitDataModule
from lightning_project import quiet
from lightning_project.audit import audit
from lightning_project.augment import augment
from lightning_project.checkpoints import prefer_config, say_changed_data
from lightning_project.exits import UsageError, exit_code
from lightning_project.explain import explain
from lightning_project.export import export
from lightning_project.init_from import begin_with
from lightning_project.loggers import close_loggers, make_loggers
from lightning_project.parser import Parser, class_at, import_all
from lightning_project.predictions import write_predictions_of
from lightning_project.predictions_gcode import write_windows_of
from lightning_project.predictions_language import write_losses_of
from lightning_project.run_folder import KeepRun, RunFolder, announce, find_run, forget, is_first, with_config_of_run
from lightning_project.signals import SaveOnSignal
from lightning_project.stream_gcode import STREAM, write_stream_of
from lightning_project.verbs import WITH_CONFIG, WITHOUT_CONFIG
from lightning_project.words import run_words
from modules.base import System

# Order of the hooks: a split comes before anything that needs it, the report after everything it tells.
SHARED: dict[str, type] = {
    "split": StratifiedSplit,
    "augmentation": Augmentation,
    "probes": Probes,
    "gradient_clipping": GradientClipping,
    "early_stopping": EarlyStopping,
    "checkpoint": Checkpoint,
    "judgement": LanguageJudgement,
    "line_judgement": GcodeJudgement,
    "report": RunReport,
    "ensemble": Ensemble,
}
_NOT_SAVED = ("ckpt_path", "init_from", "name", "runs", "wandb")


class ProjectTrainer(Trainer):
    """The Trainer with the verbs that need a model and data but no training."""

    audit = audit
    augment = augment
    explain = explain
    export = export


class ProjectCLI(LightningCLI):
    """Adds the named callbacks, the run folder, and the rule that the config wins over a checkpoint."""

    run: RunFolder
    word: str
    keeper: KeepRun

    def __init__(self, args: list[str] | None) -> None:
        verb = next(iter(sys.argv[1:] if args is None else args), "")
        if verb in WITH_CONFIG:  # collecting the options of one verb takes a tenth of a second: leave the others out
            asked = {verb: self.subcommands()[verb]}
            self.subcommands = lambda: asked  # type: ignore[method-assign]
        try:
            super().__init__(
                System,
                SplitDataModule,
                trainer_class=ProjectTrainer,
                parser_class=Parser,
                subclass_mode_model=True,
                subclass_mode_data=True,
                seed_everything_default=0,
                save_config_callback=None,
                auto_configure_optimizers=False,
                parser_kwargs={"prog": "python -m lightning_project"},
                args=args,
            )
        finally:  # the base class runs the command in its constructor
            self.close()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's options and the shared callbacks, in their one order."""
        parser.add_argument("--name", type=str | None, default=None, help="Name of the run; NAME/seed-1 is allowed.")
        parser.add_argument("--runs", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument(
            "--wandb", type=Literal["off", "offline", "online"], default="off", help="Record the run with W&B."
        )
        parser.add_argument("--init_from", type=str | None, default=None, help="Run whose weights a fit begins with.")
        for key, callback in SHARED.items():
            parser.add_lightning_class_args(callback, key)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the verbs that take a config, with the arguments that the launcher fills in."""
        filled = {"model", "dataloaders", "datamodule", "verbose", "weights_only"}
        more = {"fit": {"train_dataloaders", "val_dataloaders"}, "predict": {"return_predictions"}}
        return {verb: filled | more.get(verb, set()) for verb in WITH_CONFIG}

    # Private, because Lightning lets a checkpoint beat the config in silence and offers no hook in its place; goes when
    # tests/test_launcher.py::test_lightning_still_lets_the_checkpoint_win fails.
    def _parse_ckpt_path(self) -> None:
        verb = self.config.get("subcommand")
        if not verb:
            return
        config = self.config[verb]
        self.word = config.model.class_path.rsplit(".", 2)[-2]
        if config.get("init_from"):
            begin_with(config, verb, self.word)
        self.run = find_run(self.word, verb, config.runs, config.name, config.get("ckpt_path"))
        if self.run.checkpoint:
            config.ckpt_path = self.run.checkpoint
            prefer_config(config.model, self.run.checkpoint)
            say_changed_data(config.data, self.run.path / "config.yaml")

    def instantiate_classes(self) -> None:
        """Build everything; a value that a class refuses is a mistake on the command line, said in one line."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            if exit_code(error)[1] is not None:
                raise
            while error.__cause__ is not None:  # the parser wraps what a constructor says
                error = error.__cause__  # type: ignore[assignment]
            raise UsageError(str(error)) from error

    def before_instantiate_classes(self) -> None:
        """Make the run folder."""
        base = Path(self._get(self.config, "runs")) / self.word
        fresh = announce(self.run, base)
        self.keeper = KeepRun(self.run, base, str(self.subcommand), self.saved_config(), fresh)

    def saved_config(self) -> dict[str, Any]:
        """Return the resolved config without what belongs to one call only."""
        self._dump_config()
        saved = {key: value for key, value in self.config_dump.items() if key not in _NOT_SAVED}
        # what a resumed fit took from its checkpoint; a new fit from this config has to make its own
        filled = dict.fromkeys(class_at(saved["model"]["class_path"]).FILLED_IN)
        settings = saved["model"]["init_args"]  # not changed in place: hyperparameters are taken from here, too
        return saved | {"model": saved["model"] | {"init_args": settings | filled}}

    def instantiate_trainer(self, **kwargs: object) -> Trainer:
        """Build the Trainer over the run folder, with its loggers and a progress display that suits the output."""
        trainer = self._get(self.config_init, "trainer")
        verb, bar = str(self.subcommand), trainer["enable_progress_bar"] is not False and sys.stderr.isatty()
        loggers = make_loggers(
            self.run.path,
            verb,
            self._get(self.config, "wandb"),
            f"lightning-project-{self.word}",
            self.run.path.name,
            self.keeper.config,
        )
        if verb != "fit":
            loggers = loggers[1:]  # no CSV: the report writes the numbers of the other verbs
        own = trainer["logger"]
        loggers += [] if isinstance(own, bool) else _listed(own)
        sharded = "fsdp" in str(trainer["strategy"]).lower()  # writes its shards itself
        shown = TQDMProgressBar(refresh_rate=50) if bar else EpochLines()
        trainer["callbacks"] = [*_listed(trainer["callbacks"]), shown]
        built = super().instantiate_trainer(
            default_root_dir=str(self.run.path),
            logger=loggers if loggers and verb not in ("audit", "augment") else False,
            enable_progress_bar=bar,
            use_distributed_sampler=False,  # the loaders divide the batches themselves, without repeating a sample
            plugins=[*_listed(trainer["plugins"]), *([] if sharded else [AtomicCheckpointIO()])],
            **kwargs,
        )
        if start := self._get(self.config, "init_from"):
            built.callbacks.append(InitFrom(start))  # type: ignore[attr-defined]
        built.callbacks += [self.keeper, SaveOnSignal()]  # type: ignore[attr-defined]  # after all that can refuse
        return built

    def before_fit(self) -> None:
        """Say where the run goes."""
        self._say(f"run folder: {self.run.path}")

    def after_fit(self) -> None:
        """Judge the best weights on the validation part, for the report of the fit."""
        best = next(c for c in self.trainer.callbacks if isinstance(c, Checkpoint)).best_model_path  # type: ignore[attr-defined]
        if not best and self.trainer.state.status == "finished":
            self._say("no validation ran: there is no best checkpoint and no report of the fit; let an epoch that is "
                      "run be validated (--trainer.check_val_every_n_epoch)")  # fmt: skip
        if not best or self.trainer.state.status != "finished":
            return
        report = next(c for c in self.trainer.callbacks if isinstance(c, RunReport))  # type: ignore[attr-defined]
        report.stage_folder = "fit"
        if len(self.datamodule.indices("calib")):  # kept for temperatures and abstention; nothing is chosen on it
            report.keep_calib = True
            self.trainer.test(self.model, self.datamodule.calib_dataloader(), ckpt_path=best, verbose=False)
            report.keep_calib = False
        self.trainer.validate(self.model, self.datamodule, ckpt_path=best, verbose=False)
        self._say(f"report: {self.run.path / 'REPORT.md'}")

    def validate(self, model: System, datamodule: SplitDataModule, ckpt_path: str) -> None:
        """Judge on the validation part; the report prints the numbers."""
        self.trainer.validate(model, datamodule, ckpt_path=ckpt_path, verbose=False)

    def test(self, model: System, datamodule: SplitDataModule, ckpt_path: str) -> None:
        """Judge on the test part; the report prints the numbers."""
        self.trainer.test(model, datamodule, ckpt_path=ckpt_path, verbose=False)

    def predict(self, model: System, datamodule: SplitDataModule, ckpt_path: str) -> None:
        """Predict and write `predict/predictions.csv`."""
        write = write_losses_of if model.PREDICTS == "text" else write_predictions_of
        if hasattr(datamodule, "recording_names"):  # windows of recordings, of either stage
            write = write_windows_of
            if getattr(datamodule, "predict_path", None) == STREAM:
                judge = next(c for c in self.trainer.callbacks if isinstance(c, GcodeJudgement))  # type: ignore[attr-defined]
                write_stream_of(self.run.path, model, datamodule, ckpt_path, judge.smoothing)
                return
        write(self.trainer, self.run.path, model, datamodule, ckpt_path)

    def close(self) -> None:
        """Forget the folder, take a refused run's folder away, end the loggers; whatever happened before."""
        forget()
        if hasattr(self, "keeper"):
            self.keeper.withdraw()
        if hasattr(self, "trainer"):
            close_loggers(self.trainer.loggers)

    def _say(self, line: str) -> None:
        if is_first():
            print(line, flush=True)


def _listed(given: Any) -> list[Any]:  # noqa: ANN401  # what the Trainer takes alone or as a list
    return [] if given is None else list(given) if isinstance(given, list | tuple) else [given]


def main(args: list[str] | None = None) -> None:
    """Run one command.

    Args:
        args: Words of the command line; ``None`` takes those of this process.
    """
    words = list(sys.argv[1:] if args is None else args)
    if words and words[0] in WITHOUT_CONFIG:
        run_words(words[0], words[1:])
        return
    words = with_config_of_run(words)
    if args is None:
        sys.argv[1:] = words  # read again by the processes that Lightning starts; words given twice are warned about
    import_all(modules, datamodules)
    quiet.be_quiet()
    ProjectCLI(None if args is None else words)
