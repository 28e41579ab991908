"""The option `--init_from RUN` of `fit`: its weights to begin with, and its vocabulary."""

from pathlib import Path

from jsonargparse import Namespace

from lightning_project.exits import UsageError
from lightning_project.run_folder import find_run


def begin_with(config: Namespace, verb: str, word: str) -> None:
    """Turn the run that a fit begins with into its checkpoint, and let the data take its vocabulary.

    Args:
        config: Config of the verb; changed in place.
        verb: The verb.
        word: The system's word.

    Raises:
        UsageError: The verb trains nothing, or a run is resumed.
    """
    if verb != "fit" or config.get("ckpt_path"):
        raise UsageError("--init_from gives a new fit its weights: use it with fit, and without --ckpt_path")
    if not Path(config.init_from).is_file():  # a checkpoint may lie anywhere
        config.init_from = find_run(word, "generate", config.runs, None, config.init_from).checkpoint
    if "vocabulary_from" in config.data.init_args and config.data.init_args.vocabulary_from is None:
        config.data.init_args.vocabulary_from = config.init_from
