"""What the shared tests need of `language`: the file of a user, and what each variant needs to run offline."""

import json
from pathlib import Path

from tests.fake_data.language import wikitext_folder
from tests.fake_data.language_teacher import student_words

# Toy sizes of the variants that state their own.
_SMALL = (
    *("--model.shape", "{width: 16, depth: 2, heads: 2, ffn: 16, max_len: 64}"),
    *("--data.vocab_size", "300", "--data.window", "24", "--data.batch_size", "8"),
)
_ON_WIKITEXT = {"language_wikitext2", "language_wikitext_words", "language_modern"}


def write(folder: Path, labels: bool = True, rename: dict[str, str] | None = None) -> Path:
    """Write the embedded text of the tiny config as a user's file.

    Args:
        folder: Where.
        labels: Whether the file is to be trained on; other text otherwise.
        rename: Words to replace, by the word.
    """
    from datamodules.synthetic.language import make_articles

    text = "\n".join(text.text for text in make_articles(6000 if labels else 1500, seed=0 if labels else 1))
    for word, other in (rename or {}).items():
        text = text.replace(word, other)
    path = folder / ("artículos.txt" if labels else "new.txt")
    path.write_text(text, encoding="utf-8")
    return path


def words(variant: Path, folder: Path) -> list[str]:
    """Return what a variant needs besides the tiny config; real data get files of the same form."""
    name = variant.stem
    if name == "language_pairs":
        path = folder / "pairs.jsonl"
        rows = [{"prompt": f"What is {n} ?", "target": f"It is {n % 7} ."} for n in range(60)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return ["--data.path", str(path)]
    if name == "language_student":
        return student_words(folder)
    if name == "language_brief":
        small = "{width: 16, depth: 2, heads: 2, ffn: 16}"
        sizes = ["--model.shape", small, "--data.tokenizer", "bytes", "--data.window", "24", "--data.batch_size", "8"]
        return ["--data.path", str(wikitext_folder(folder / "wikitext")), *sizes, "--model.memory.slots", "16",
                "--model.memory.writes", "8"]  # fmt: skip
    if name in _ON_WIKITEXT:  # a compiler would take minutes
        return ["--data.path", str(wikitext_folder(folder / "wikitext")), *_SMALL, "--model.compile_net", "false",
                "--checkpoint.every_n_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]  # fmt: skip
    if name == "language_recall":
        return ["--data.synthetic_samples", "6000"]
    return []
