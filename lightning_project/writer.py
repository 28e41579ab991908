"""A trained language model that writes: the network, the tokenizer and the window of a run, from its folder alone."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from lightning.pytorch import LightningModule

from callbacks.checkpoint import read_checkpoint
from datamodules.errors import DataError
from datamodules.language_pairs import LanguagePairs
from datamodules.language_tokenizer import Tokenizer
from lightning_project.exits import UsageError
from lightning_project.parser import class_at
from lightning_project.run_folder import find_run
from modules.compression import to_int8
from modules.continuing import Vocabulary
from modules.decoding import Text
from modules.generation import Sampling


@dataclass(frozen=True)
class Writer:
    """A language model ready to write.

    Attributes:
        folder: Its run folder.
        checkpoint: The file of its weights.
        model: The system, in evaluation mode; its ``net`` is the network.
        tokenizer: Its tokenizer.
        window: Tokens seen at once, as in training.
        answers: Whether it was trained on pairs: what closed their targets ends its texts.
    """

    folder: Path
    checkpoint: Path
    model: Any
    tokenizer: Tokenizer
    window: int
    answers: bool = False

    @classmethod
    def of_run(
        cls, ckpt_path: str, name: str | None = None, runs: str = "runs", device: str = "auto", int8: bool = False
    ) -> "Writer":
        """Load the model of a run.

        Args:
            ckpt_path: ``best``, ``last``, a run folder or a file in one.
            name: Name of the run; by default the newest.
            runs: Folder of all runs.
            device: Such as ``cpu`` or ``cuda``; ``auto`` takes an accelerator where there is one.
            int8: Round weights of linear layers and embeddings to int8, on the CPU; ``compress`` says what it costs.

        Raises:
            DataError: It is no run of a language model, or its folder is not whole.
        """
        found = find_run("language", "generate", runs, name, ckpt_path)
        assert found.checkpoint is not None  # one was asked for
        saved = read_checkpoint(found.checkpoint, "cpu")
        made_by = saved.get("hyper_parameters", {}).get("_class_path") or "another project"
        states = [state for state in saved.values() if isinstance(state, dict) and "tokenizer" in state]
        if not (made_by.startswith("modules.language") and states):
            raise DataError(f"{found.checkpoint} is of {made_by}: name a run of `language`")
        importlib.import_module(made_by.rpartition(".")[0])  # a class that was not imported is not built from a file
        model: Any = LightningModule.load_from_checkpoint(found.checkpoint, map_location="cpu")
        model.to(torch.device("cpu") if int8 else _device(device)).eval()
        if int8:
            model.net = to_int8(model.net)
        tokenizer, data = Tokenizer.from_state(states[0]["tokenizer"]), _config(found.path)["data"]
        answers = data["class_path"] == f"{LanguagePairs.__module__}.{LanguagePairs.__name__}"
        return cls(
            found.path, Path(found.checkpoint), model, tokenizer, int(data["init_args"]["window"]), answers=answers
        )

    @property
    def net(self) -> Any:  # noqa: ANN401  # any network of a language model
        """The network."""
        return self.model.net

    def data(self) -> Any:  # noqa: ANN401  # the datamodule that the run's config names
        """Read the text that the model was trained on, with the run's split.

        Raises:
            DataError: The text is not there any more, or is another one.
        """
        given, table = _config(self.folder)["data"], self.folder / "split.csv"
        data = class_at(given["class_path"])(**given["init_args"])
        data.setup("fit")
        data.apply_split(pd.read_csv(table, dtype=str, keep_default_na=False))
        if data.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise DataError(f"{self.folder}: the text gives another vocabulary than that of the run: it has changed")
        return data

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        found: torch.device = next(self.net.parameters()).device
        return found

    @property
    def vocabulary(self) -> Vocabulary:
        """What generation has to know of the tokenizer."""
        found = Vocabulary.of(self.tokenizer)
        # among words a target is closed by the end of a line, which ends no other text
        return replace(found, end=self.tokenizer.eos_id) if self.answers else found

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return [int(token) for token in self.tokenizer.encode(text)]

    def prompt(self, text: str) -> list[int]:
        """Return the tokens of a prompt; a text begins as the documents of training do."""
        return [self.tokenizer.eos_id, *self.encode(text)]

    def texts(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        seed: int = 0,
        samples: int = 1,
    ) -> list[Text]:
        """Return the texts to be written: ``samples`` of each prompt, one prompt after the other."""
        if samples < 1:
            raise UsageError(f"samples must be at least 1, got {samples}")
        tokens = [self.prompt(prompt) for prompt in prompts for _ in range(samples)]
        return [
            Text.make(i, one, sampling, max_new_tokens, seed, self.vocabulary.decode, stop)
            for i, one in enumerate(tokens)
        ]


def printable(text: str) -> str:
    """Return a text for a terminal, which obeys control characters; a model may write any."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)


def _device(name: str) -> torch.device:
    if name != "auto":
        try:
            return torch.device(name)
        except RuntimeError as error:
            raise UsageError(f"device {name!r} is unknown: use auto, cpu, cuda or mps") from error
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    if not path.is_file():
        raise DataError(f"{path} is missing: the settings of training are written there; keep a run's folder whole")
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found
