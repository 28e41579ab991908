"""Tiny text files in the forms that `language` reads."""

from pathlib import Path


def articles(count: int = 12, seed: int = 0) -> str:
    """Return little articles with headings in the form of WikiText: a blank line is a single space."""
    from datamodules.synthetic.language import make_articles

    texts = [text.text for text in make_articles(count * 400, seed)][:count]
    lines = "\n".join(["", *texts]).splitlines()
    return "".join(f" {line} \n" if line else " \n" for line in lines)


def wikitext_folder(folder: Path) -> Path:
    """Write train.txt, valid.txt and test.txt; the rarest words of the training part are `<unk>`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", 16, 0), ("valid", 4, 1), ("test", 4, 2)):
        text = articles(count, seed).replace("catalogue", "<unk>")
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder
