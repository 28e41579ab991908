"""Silence for the messages that say nothing to a user of this project."""

import logging
import warnings

_HARMLESS = (
    r".*does not have many workers.*",  # embedded data are in memory
    r".*isinstance\(treespec, LeafSpec\).*",  # inside Lightning
    r".*Checkpoint directory .* exists and is not empty.*",  # the run folder is checked by the launcher
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*You're using the WeightAveraging callback, but (saving|loading) a checkpoint outside.*",
    r".*num_workers.*",
    r".*Found \d+ module\(s\) in eval mode at the start of training.*",  # a frozen encoder stays in it
)


_SAYS_NOTHING = (
    "litlogger",  # an advertisement
    "`weights_only` was not set",  # checkpoints are read with weights_only=True, whatever Lightning asks for
    "TPU available",
    "to estimate number of stepping batches",
)
_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)


def be_quiet() -> None:
    """Filter the known messages; everything else stays."""
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_says_something)


def _says_something(record: logging.LogRecord) -> bool:
    return not any(words in str(record.msg) for words in _SAYS_NOTHING)
