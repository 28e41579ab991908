"""`generate --demo`: prompts through each strategy, three bold samples, and what the memory held."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lightning_project.writer import Writer, printable
from modules.continuing import continue_texts
from modules.decoding import Text
from modules.generation import Sampling

PROMPTS = Path(__file__).resolve().parents[1] / "configs" / "prompts" / "language.txt"
BOLD, BOLD_SAMPLES = Sampling("temperature", temperature=1.2), 3
SHOWN = (
    Sampling("greedy"),
    Sampling("temperature"),
    Sampling("top_k", top_k=40),
    Sampling("top_p", top_p=0.9),
    Sampling("top_k_top_p", top_k=40, top_p=0.9),
    Sampling("top_p", repetition_penalty=1.2, no_repeat_ngram=3),
)


def demo(
    writer: Writer, prompts: Sequence[str], max_new_tokens: int, seed: int, batch_size: int
) -> list[tuple[str, int, Text]]:
    """Write and print the texts of the demonstration.

    Args:
        writer: The model.
        prompts: Prompts.
        max_new_tokens: Tokens of a text at most.
        seed: Seed of the draws.
        batch_size: Texts at once.

    Returns:
        Prompt, number of the sample, and text.
    """
    columns = [(sampling, 0) for sampling in SHOWN] + [(BOLD, sample) for sample in range(BOLD_SAMPLES)]
    rows: list[tuple[str, int, Text]] = []
    for prompt in prompts:
        tokens = writer.prompt(prompt)
        for sampling, sample in columns:
            text = Text.make(len(rows), tokens, sampling, max_new_tokens, seed, writer.vocabulary.decode)
            rows.append((prompt, sample, text))
    with tqdm(total=len(rows) * max_new_tokens, unit="piece", disable=None) as bar:
        continue_texts(
            *(writer.net, [text for _, _, text in rows], writer.window, writer.vocabulary.end, batch_size),
            show=lambda *_: bar.update(),
        )
    for at, (prompt, sample, text) in enumerate(rows):
        if at % len(columns) == 0:
            print(f"\n=== {prompt}")
        print(f"[{label(text.sampling, sample)}] {printable(text.written.text)}")
    print("\n=== memory")
    for line in memory_lines(writer, [text for _, _, text in rows]):
        print(line)
    return rows


def label(sampling: Sampling, sample: int) -> str:
    """Return a short name of a way to choose tokens."""
    if sampling == BOLD:
        return f"temperature 1.2, sample {sample + 1}"
    values = {"top_k": f" {sampling.top_k}", "top_p": f" {sampling.top_p:g}"}
    found = f"{sampling.strategy}{values.get(sampling.strategy, '')}"
    if sampling.plain:
        return found
    return f"{found}, penalty {sampling.repetition_penalty:g}, no {sampling.no_repeat_ngram}-gram twice"


def memory_lines(writer: Writer, texts: Sequence[Text]) -> Iterator[str]:
    """Say how the memory is used when all texts are read as one."""
    facts = memory_facts(writer.net, [token for text in texts for token in text.prompt + text.tokens], writer.window)
    if facts is None:
        yield "this network has none"
        return
    yield f"texts read as one: {facts['tokens']} tokens in segments of {writer.window}"
    yield f"slots in use: {facts['used']} of {facts['slots']}; effective number by reads: {facts['effective']:.1f}"
    yield f"importance: {facts['importance']:.3f}; reads that went to a slot: {facts['read_share']:.1%}"


def memory_facts(net: Any, tokens: Sequence[int], window: int) -> dict[str, Any] | None:  # noqa: ANN401  # a language model
    """Read a text segment by segment; return how the memory was used, or ``None`` without one.

    Returns:
        ``slots``; ``used``, those that hold something at the end; ``effective``, exp(entropy) of the read mass;
        ``read_share``, the mean share of a position's read that went to any slot; ``importance``, the mean of the used.
    """
    if net.memory is None:
        return None
    state = net.new_state(1, window)
    device = next(net.parameters()).device
    mass, places = None, 0
    with torch.inference_mode():
        for piece in torch.tensor(tokens, device=device)[None].split(window, 1):
            out = net(piece, state=state, look=True)
            state, read = out["state"], out["slots"][0].cpu().double().sum(0).numpy()  # Apple's GPUs have no float64
            mass, places = read if mass is None else mass + read, places + piece.shape[1]
        importance = net.memory.write(state)["importance"][0].cpu().numpy()
    assert mass is not None
    share = mass / mass.sum() if mass.sum() else mass
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    used = importance > 0
    return {
        "tokens": len(tokens),
        "slots": len(importance),
        "used": int(used.sum()),
        "effective": float(np.exp(entropy)) if mass.sum() else 0.0,
        "read_share": float(mass.sum() / places),
        "importance": float(importance[used].mean()) if used.any() else 0.0,
    }
