"""The verb `augment`, and the augmentation methods on papers."""

import numpy as np
import pandas as pd
import pytest
from imblearn.over_sampling import SMOTE
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from callbacks.augmentation import Augmentation
from callbacks.back_translation import BackTranslation
from callbacks.oversampling import Oversampling
from callbacks.pseudo_labels import PseudoLabels
from callbacks.stratified_split import StratifiedSplit
from datamodules.encoder_states import EncoderStates
from datamodules.errors import DataError
from datamodules.papers import PapersData
from datamodules.predictions import write_predictions
from datamodules.splits import make_split
from lightning_project.augment import augment
from lightning_project.exits import UsageError
from lightning_project.run_folder import KeepRun, RunFolder
from tests.fake_data.translators import write_marian
from tests.test_stratified_split import make_trainer

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


def papers(**options):
    data = PapersData(synthetic_samples=120, title_len=16, abstract_len=24, vocab_size_wanted=300, **options)
    data.setup("fit")
    data.apply_split(make_split(data.records, fractions=FRACTIONS, seed=0))
    return data


def ids_of(loader):
    return {i for batch in loader for i in batch["id"].tolist()}


def test_paraphrased_papers_are_trained_on(tmp_path):
    data = papers()
    words = tuple(dict.fromkeys(" ".join(data.records["abstract"]).split()))[:30]
    models = [write_marian(tmp_path / name, seed, words) for seed, name in enumerate(["there", "back"])]
    name = data.class_names[0]
    method = BackTranslation(*models, classes=[name], fraction=0.3, max_length=6, beams=1)
    rows = method.rows(data)
    origins = data.records.set_index("id").loc[rows["augmented_from"]]
    assert len(rows) and rows["title"].tolist() == origins["title"].tolist()
    count = data.class_counts("train")
    data.extend_train(rows)
    assert (data.class_counts("train") - count).tolist() == [len(rows)] + [0] * (data.num_classes - 1)
    assert set(range(data.originals, len(data.records))) <= ids_of(data.train_dataloader())


def test_papers_that_are_known_by_id_version_or_title_get_no_pseudo_label(tmp_path):
    data = papers()
    held = data.records.iloc[np.flatnonzero(data.table["part"] != "train")[:2]]
    rows = pd.DataFrame(
        {
            "id": ["new-1", held["id"].iloc[0] + "v2", "new-2"],
            "title": ["Something nobody wrote", "Another title", held["title"].iloc[1].upper() + " !"],
            "abstract": ["one two three", "four five six", "seven eight nine"],
        }
    )
    rows.to_csv(tmp_path / "more.csv", index=False)
    prob = np.eye(data.num_classes)[[1, 1, 1]]
    write_predictions(tmp_path / "p.csv", rows["id"], prob, data.class_names)
    method = PseudoLabels(str(tmp_path / "more.csv"), str(tmp_path / "p.csv"))
    made = method.rows(data)
    assert made["id"].tolist() == ["new-1"] and made["label"].tolist() == [data.class_names[1]]
    assert method.counts["held out"] == 2
    data.extend_train(made)
    assert len(data.records) - 1 in ids_of(data.train_dataloader())


def write_encoder(folder, texts):
    pieces = sorted(set(" ".join(texts)))
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces, *(f"##{piece}" for piece in pieces)]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    signs = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **signs).save_pretrained(folder)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return str(folder)


def test_vectors_of_papers_are_sampled_between_and_tokens_are_not(tmp_path):
    plain = papers()
    folder = write_encoder(tmp_path / "encoder", [*plain.records["title"], *plain.records["abstract"]])
    data = papers(states=EncoderStates(folder, 1, pooled=True))
    names, counts = data.class_names, data.class_counts("train")
    rows = Oversampling(SMOTE(k_neighbors=2)).rows(data)
    assert [(rows["label"] == name).sum() for name in names] == (counts.max() - counts).tolist()
    data.extend_train(rows)
    assert data.class_counts("train").tolist() == [counts.max()] * len(names)
    vectors = {i: v for b in data.train_dataloader() for i, v in zip(b["id"].tolist(), b["vector"], strict=True)}
    np.testing.assert_allclose(vectors[data.originals], rows["vector"][0], rtol=1e-6)
    with pytest.raises(DataError, match="has no vectors to sample between"):
        Oversampling(SMOTE()).rows(plain)


def verb(tmp_path, methods):
    split = StratifiedSplit(seed=1)
    trainer = make_trainer(tmp_path / "run", split)
    keeper = KeepRun(RunFolder(tmp_path / "run", None), tmp_path, "augment", {"seed": 1}, True)
    trainer.callbacks += [Augmentation(methods), keeper]
    data = PapersData(synthetic_samples=120)
    augment(trainer, None, data)
    return data


def test_the_verb_writes_the_rows_without_training(tmp_path, capsys):
    words = ("alpha", "beta", "gamma")
    models = [write_marian(tmp_path / name, seed, words) for seed, name in enumerate(["there", "back"])]
    data = verb(tmp_path, [BackTranslation(*models, fraction=0.1, max_length=4, beams=1)])
    folder = tmp_path / "run" / "augment"
    rows = pd.read_csv(folder / "augmented.csv", dtype=str, keep_default_na=False)
    assert len(rows) == len(data.records) - data.originals > 0
    assert set(rows["method"]) == {"BackTranslation"} and "abstract" in rows
    assert {path.name for path in folder.iterdir()} == {"augmented.csv", "counts.json", "config.yaml"}
    assert f"({len(rows)} rows)" in capsys.readouterr().out


def test_the_verb_without_methods_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="name methods under `augmentation`"):
        verb(tmp_path, [])
