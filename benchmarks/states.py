"""What cached states of a frozen encoder save: ``python -m benchmarks.states --system papers --encoder FOLDER``.

Two fits of the same frozen encoder: in the network, where each step runs it, and by states that are computed once and
kept on disk. Passes of the encoder are counted where they happen, in each epoch; the cost is the time of an epoch.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from benchmarks.common import epochs, measure, read_words
from benchmarks.rounds import now
from callbacks.report_files import write_json


class Passes(Callback):
    """Count the passes of encoders before training and in each epoch, and take the time of the epochs.

    Args:
        out: JSON file for the figures.
    """

    def __init__(self, out: str) -> None:
        self.out = Path(out)
        self.before, self.prepare_seconds, self.began = 0, 0.0, 0.0
        self.passes, self.seconds = list[int](), list[float]()
        self.handles: list[Any] = []
        self.training = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Count from here on."""
        if self.handles:
            return
        from transformers import PreTrainedModel

        def before(module: nn.Module, args: Any) -> None:  # noqa: ANN401
            if isinstance(module, PreTrainedModel):
                self.began = self.began or now(torch.device("cpu"))

        def after(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ANN401
            if isinstance(module, PreTrainedModel):
                if self.passes and self.training:
                    self.passes[-1] += 1
                elif not self.passes:
                    self.before += 1
                    self.prepare_seconds = now(torch.device("cpu")) - self.began

        self.handles = [register_module_forward_pre_hook(before), register_module_forward_hook(after)]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.passes.append(0)
        self.seconds.append(now(pl_module.device))
        self.training = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of the epoch."""
        if self.training:
            self.seconds[-1] = now(pl_module.device) - self.seconds[-1]
            self.training = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the figures."""
        for handle in self.handles:
            handle.remove()
        figures = {
            "passes_before": self.before,
            "prepare_seconds": self.prepare_seconds,
            "passes": self.passes,
            "seconds": self.seconds,
        }
        write_json(self.out, figures)


def words_of(encoder: str, folder: Path) -> dict[str, list[str]]:
    """Return what makes the two fits, besides the system's own config."""
    from transformers import AutoConfig

    depth, nets = AutoConfig.from_pretrained(encoder).num_hidden_layers, "modules.nets.papers_encoder"
    return {
        "network": [
            f"--model.encoder={{class_path: {nets}.PretrainedEncoder, init_args: {{source: '{encoder}'}}}}",
            f"--model.tuning={{frozen_layers: [{depth}], frozen_embeddings: true}}",
            f"--data.tokenizer={encoder}",
        ],
        "cached": [
            f"--model.encoder={{class_path: {nets}.CachedStates}}",
            "--data.states={class_path: datamodules.encoder_states.EncoderStates, init_args: "
            f"{{source: '{encoder}', cache: '{folder / 'cache'}'}}}}",
        ],
    }


def describe(network: dict, cached: dict) -> str:
    """The figures in a few lines."""
    lines = []
    for name, found in (("encoder in the network", network), ("cached states", cached)):
        later = median(found["seconds"][1:])
        lines.append(
            f"{name}: {later:.2f} s an epoch; passes of the encoder: {found['passes_before']} before training "
            f"({found['prepare_seconds']:.1f} s), by epoch {found['passes']}"
        )
    share = median(cached["seconds"][1:]) / median(network["seconds"][1:])
    second = cached["passes"][1]
    lines.append(f"  an epoch costs {share:.3f} of the other; passes in the second epoch: {second}; target 0: "
                 f"{'reached' if not second else 'NOT reached'}")  # fmt: skip
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, and leave a record when asked."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--encoder", required=True)
    own, rest = parser.parse_known_args(args)
    given = read_words("benchmarks.states", __doc__, ["papers"], 3, rest)
    options = [f"--data.path={given.data.resolve()}"] if given.data else []
    encoder = str(Path(own.encoder).resolve())
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), {}
        for side, words in words_of(encoder, folder).items():
            more = [*words, *epochs(max(2, given.rounds)), *options, *given.options]
            found[side] = measure(given.configs, "benchmarks.states.Passes", more, folder / side)
    print(describe(found["network"], found["cached"]))
    name = Path(own.encoder).name
    given.keep("benchmarks.states", ["datamodules/encoder_states.py"], found, own=[f"--encoder {name}"])


if __name__ == "__main__":
    main()
