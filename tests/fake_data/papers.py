"""Tiny files of papers in the formats that `papers` reads, and a tiny encoder with its tokenizer."""

import csv
import gzip
import io
import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

Rows = list[dict[str, str]]
WORDS = {
    "cs.AI": "planning agents logic search",
    "cs.CL": "translation dialogue syntax speech",
    "cs.CV": "images segmentation video depth",
    "cs.LG": "gradients bandits kernels learning",
}
NAMES = list(WORDS)


def paper_rows(per_class: int = 8) -> Rows:
    """Learnable papers with the columns of the real file; ids have zeros that a number would lose."""
    rows = []
    for i in range(len(NAMES) * per_class):
        label = NAMES[i % len(NAMES)]
        words = WORDS[label].split()
        other = NAMES[(i + 1 + i // 7) % len(NAMES)]
        rows.append(
            {
                "id": f"2601.{10 * i:05d}",
                "title": f"On {words[i % 4]}, number {chr(97 + i // 4)}{chr(97 + i % 26)}",
                "abstract": f"We study {words[(i + 1) % 4]} and {words[i % 4]}. "
                + "It is a long story. " * (1 + i % 3),
                "category": label,
                "all_categories": " ".join(dict.fromkeys([label, *([other] if i % 2 else []), "stat.ML"])),
                "published": f"2026-{1 + i * 12 // (len(NAMES) * per_class):02d}",
            }
        )
    return rows


def write_papers(path: Path, rows: Rows | None = None) -> Path:
    """Write rows in the format that the ending names."""
    rows = paper_rows() if rows is None else rows
    if ".jsonl" in path.name:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        out = io.StringIO()
        table = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        text = out.getvalue()
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_encoder(folder: Path, layers: int = 2, width: int = 16, texts: list[str] | None = None) -> Path:
    """Write a random BERT and its tokenizer, whose words are those of the texts, as `save_pretrained` does."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    texts = texts or [f"{row['title']} {row['abstract']}" for row in paper_rows()]
    pre = pre_tokenizers.BertPreTokenizer()
    found = sorted({word for text in texts for word, _ in pre.pre_tokenize_str(text.lower())})
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *found])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder
