"""Exit codes: 0 done, 1 fault, 2 usage, 3 data refused, 4 non-finite, 130/143 signals."""

from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.checkpoint import UntrustedCheckpointError
from callbacks.gradient_clipping import NonFiniteError
from callbacks.probes import ProbeError
from datamodules.errors import DataError
from modules.base import ClassMapError

DONE, FAULT, USAGE, REFUSED, NON_FINITE, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143


class UsageError(ValueError):
    """The command line asks for something that cannot be; the message says what to write instead."""


class CellsFailedError(RuntimeError):
    """Some cells of an ablation failed; the others and the table are finished."""


class ExportError(RuntimeError):
    """A network could not be exported in any of the formats asked for."""


def exit_code(error: BaseException) -> tuple[int, str | None]:
    """Return the exit code of an error and its one line; ``None`` where only a traceback helps."""
    known: list[tuple[type[BaseException], int]] = [
        (UsageError, USAGE),
        (DataError, REFUSED),
        (ClassMapError, REFUSED),
        (UntrustedCheckpointError, REFUSED),
        (NonFiniteError, NON_FINITE),
        (ProbeError, FAULT),
        (CellsFailedError, FAULT),
        (ExportError, FAULT),
    ]
    if isinstance(error, SIGTERMException):  # Lightning alone would exit with 0
        return TERMINATED, "terminated"
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, SystemExit):
        return FAULT, None
    link: BaseException | None = error
    while link is not None:  # an error inside a constructor arrives wrapped by the parser
        for kind, code in known:
            if isinstance(link, kind):
                return code, str(link)
        link = link.__cause__ or link.__context__
    return FAULT, None
