"""A checkpoint in the form of a trained `language` run, with random weights: a teacher, and a vocabulary to take."""

from dataclasses import asdict
from pathlib import Path

import torch


def write_teacher(folder: Path) -> Path:
    """Write a tiny network with a memory and a vocabulary of bytes."""
    from datamodules.language_tokenizer import Tokenizer
    from modules.nets.language import Dropouts, LanguageTransformer, Shape
    from modules.nets.memory import Slots

    tokenizer = Tokenizer("bytes")
    shape, memory = Shape(16, 1, 2, 16, 64, norm="pre", copy=4), Slots(8, 8, 4)
    torch.manual_seed(0)
    net = LanguageTransformer(tokenizer.vocab_size, shape, memory=memory)
    settings = {"network": "transformer", "vocab_size": tokenizer.vocab_size, "shape": asdict(shape)}
    saved = {
        "state_dict": {f"net.{name}": value for name, value in net.state_dict().items()},
        "hyper_parameters": {**settings, "dropouts": asdict(Dropouts()), "memory": asdict(memory), "exploration": None},
        "class_names": [tokenizer.fingerprint],
        "LanguageData": {"tokenizer": tokenizer.state_dict()},
    }
    path = folder / "teacher.ckpt"
    torch.save(saved, path)
    return path


def student_words(folder: Path) -> list[str]:
    """Return what `language_student` needs besides the tiny config."""
    path = str(write_teacher(folder))
    return ["--model.distillation.teacher", path, "--data.vocabulary_from", path]
