"""Entry point: answers `--help` and `--version` at once, and turns errors into one line and an exit code."""

import difflib
import os
import sys

from lightning_project import __version__
from lightning_project.verbs import VERBS

_HELP = f"""\
usage: python -m lightning_project VERB [--config FILE ...] [--KEY VALUE ...]

verbs
{"".join(f"  {verb:<10} {what}{chr(10)}" for verb, what in VERBS.items())}
examples
  python -m lightning_project fit --config configs/signs.yaml --name first
  python -m lightning_project test --config configs/signs.yaml --name first --ckpt_path best
  python -m lightning_project compare runs/signs/first runs/signs/second

options
  VERB --help          every option of a verb
  VERB --print_config  the resolved config, then stop
  --version            the version, then stop

exit codes: 0 done, 1 fault, 2 usage, 3 data refused, 4 non-finite, 130/143 interrupted
Most errors are one line; LIGHTNING_PROJECT_DEBUG=1 prints the whole traceback.
"""


def run(words: list[str] | None = None) -> None:
    """Run the command line and exit; returns nothing, as console scripts must.

    Args:
        words: Words of the command line; ``None`` takes those of this process.
    """
    arguments = sys.argv[1:] if words is None else words
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP, end="")
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        print(f"lightning_project {__version__}")
        sys.exit(0)

    if arguments[0] not in VERBS:
        near = difflib.get_close_matches(arguments[0], VERBS, 1, 0.5)
        print(f"error: {arguments[0]!r} is no verb; the verbs are {', '.join(VERBS)}", file=sys.stderr)
        print(f"did you mean: {near[0]}?" if near else "all verbs: python -m lightning_project --help", file=sys.stderr)
        sys.exit(2)

    from lightning_project.cli import main
    from lightning_project.exits import exit_code

    try:
        main(words)
    except BaseException as error:
        code, line = exit_code(error)
        if line is None or os.environ.get("LIGHTNING_PROJECT_DEBUG"):
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    run()
