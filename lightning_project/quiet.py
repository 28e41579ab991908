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
)


def be_quiet() -> None:
    """Filter the known messages; everything else stays."""
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "litlogger" not in record.msg)
