"""Tiny translation models with random weights, and a tokenizer of whole words, in the files of `transformers`."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

WORDS = ("uno", "dos", "tres", "gato", "perro", "casa", "rojo", "verde", "alto", "bajo")


def write_marian(folder: Path, seed: int, words: tuple[str, ...] = WORDS) -> str:
    """Write a translation model that knows a few words and says them at random."""
    vocabulary = {word: number for number, word in enumerate(["</s>", "<pad>", "<unk>", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=64
    )
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "init_std": 0.5}
    ends = {"eos_token_id": 0, "forced_eos_token_id": 0, "pad_token_id": 1, "decoder_start_token_id": 1}
    config = MarianConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes, **heads, **ends)
    model = MarianMTModel(config)
    model.final_logits_bias[:, :3] = -20.0  # words, not signs
    model.save_pretrained(folder)
    return str(folder)
