"""What the shared tests need of `papers`: the file of a user, and what each variant needs to run offline."""

import csv
from functools import cache
from pathlib import Path

import torch
import yaml

from tests.fake_data.translators import write_marian

LAYERS = {"bert": 8, "roberta": 2, "deberta-v2": 2}  # a recipe of the brief freezes eight
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 512}


def write(folder: Path, labels: bool = True, rename: dict[str, str] | None = None) -> Path:
    """Write the synthetic papers of the tiny config as a user's file.

    Args:
        folder: Where.
        labels: Whether the file holds labels.
        rename: New names of classes.
    """
    from datamodules.synthetic.papers import make_papers

    made, new = make_papers(240), rename or {}
    rows = {"id": made.ids, "title": made.titles, "abstract": made.abstracts, "published": made.published}
    if labels:
        rows["category"] = [new.get(name, name) for name in made.labels]
        rows["all_categories"] = [" ".join(new.get(name, name) for name in text.split()) for text in made.categories]
    path = folder / ("artículos.csv" if labels else "new.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows)
        writer.writerows(zip(*rows.values(), strict=True))
    return path


def words(variant: Path, folder: Path) -> list[str]:
    """Return what a variant needs besides the tiny config: tiny models with random weights for those of the hub."""
    config = yaml.safe_load(variant.read_text(encoding="utf-8"))
    spec = config.get("model", {}).get("init_args", {}).get("encoder", {}).get("init_args") or {}
    given = []
    if "states" in config.get("data", {}).get("init_args", {}):
        encoder = encoder_folder("bert", folder)
        given += ["--data.states.source", encoder]
        given += ["--model.encoder.source", encoder] if "source" in spec else []
    elif "source" in spec:
        kinds = ("roberta", "deberta")
        kind = next((kind for kind in kinds if kind in spec["source"].lower()), "bert")
        encoder = encoder_folder({"deberta": "deberta-v2"}.get(kind, kind), folder)
        given += ["--model.encoder.source", encoder, "--data.tokenizer", encoder]
    if "forward" in variant.read_text(encoding="utf-8"):
        models = {way: write_marian(folder / way, seed) for seed, way in enumerate(("forward", "backward"))}
        given += [word for way, path in models.items() for word in (f"--augmentation.methods.{way}", path)]
        given += ["--augmentation.methods.beams", "1", "--augmentation.methods.max_length", "16"]
    return given


@cache
def encoder_folder(kind: str, folder: Path) -> str:
    """Save a tiny encoder of a family with its tokenizer, as `save_pretrained` does; return the folder."""
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    from datamodules.papers_text import CLS, MASK, PAD, SEP, UNK, PapersTokenizer
    from datamodules.synthetic.papers import make_papers

    own = PapersTokenizer.train(make_papers(60, seed=5).abstracts, 400)
    names = {"pad_token": PAD, "unk_token": UNK, "cls_token": CLS, "sep_token": SEP, "mask_token": MASK}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own.tokenizer, **names)
    more = {"pos_att_type": ["p2c", "c2p"], "relative_attention": True} if kind == "deberta-v2" else {}
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=own.vocab_size, num_hidden_layers=LAYERS[kind], pad_token_id=own.pad_id, **SIZES, **more
    )
    path = folder / f"tiny {kind}"
    AutoModel.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)
