"""The verb `generate`: text from a trained language model, by any strategy, to the terminal and to a file."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from callbacks.report_files import write_text
from datamodules.errors import DataError
from lightning_project import generate_demo, generate_talk
from lightning_project.exits import UsageError
from lightning_project.writer import Writer, printable
from modules.continuing import continue_texts
from modules.decoding import Text
from modules.generation import Sampling, Strategy


def generate(
    prompt: list[str] | None = None,
    prompts: str | None = None,
    ckpt_path: str = "best",
    name: str | None = None,
    runs: str = "runs",
    strategy: Strategy = "top_p",
    temperature: float = 1.0,
    top_k: int = 40,
    top_p: float = 0.9,
    repetition_penalty: float = 1.0,
    frequency_penalty: float = 0.0,
    no_repeat_ngram: int = 0,
    history: int = 0,
    max_new_tokens: int = 100,
    stop: list[str] | None = None,
    seed: int = 0,
    samples: int = 1,
    batch_size: int = 32,
    out: str | None = None,
    device: str = "auto",
    int8: bool = False,
    interactive: bool = False,
    demo: bool = False,
) -> None:
    """Write text that continues prompts, with the model of a run.

    Args:
        prompt: Prompts; each in quotes.
        prompts: File of prompts, one a line; lines that begin with # and empty ones are left out.
        ckpt_path: best, last, a run folder, or a checkpoint in one.
        name: Name of the run; the newest where nothing is named.
        runs: Folder of all runs.
        strategy: greedy, temperature, top_k, top_p, or top_k_top_p (both cuts).
        temperature: Above 0; below 1 makes likely tokens likelier.
        top_k: Tokens that top_k keeps.
        top_p: Probability that top_p keeps.
        repetition_penalty: Divides the score of tokens that occurred; 1 is none, 1.2 usual.
        frequency_penalty: Taken from the score of a token for each time that it occurred.
        no_repeat_ngram: Length of runs of tokens that may not come twice; 0 is off.
        history: Latest tokens that the penalties look at; 0 is all.
        max_new_tokens: Tokens at most.
        stop: Strings that end a text; they are not part of it.
        seed: The same seed gives the same texts, whatever the batch size.
        samples: Texts for each prompt.
        batch_size: Texts at once.
        out: JSON-lines file for the texts; by default generate/texts.jsonl in the run folder.
        device: auto, cpu, cuda or mps.
        int8: Write with weights in int8, on the CPU.
        interactive: Talk with the model; `config` shows and sets values, `exit` ends.
        demo: Take the prompts through each strategy; without prompts, the ones that come with the project.

    Raises:
        UsageError: No prompt, or a value without a meaning.
    """
    try:
        sampling = Sampling(
            *(strategy, temperature, top_k, top_p, repetition_penalty, frequency_penalty, no_repeat_ngram, history)
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    for option, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size), ("samples", samples)):
        if value < 1:
            raise UsageError(f"{option} must be at least 1, got {value}")
    if seed < 0 or "" in (stop or []):
        raise UsageError(f"a seed is at least 0 and a stop string is not empty, got {seed} and {stop}")
    given = [*(prompt or []), *(read_prompts(prompts) if prompts else [])]
    if not (given or interactive or demo):
        raise UsageError("nothing to continue: add --prompt TEXT, --prompts FILE, --interactive or --demo")
    writer = Writer.of_run(ckpt_path, name, runs, device, int8)
    if interactive:
        generate_talk.talk(writer, sampling, max_new_tokens, stop or [], seed)
        return
    if demo:
        shown = given or read_prompts(generate_demo.PROMPTS)
        rows = [
            row(text, one, sample, seed)
            for one, sample, text in generate_demo.demo(writer, shown, max_new_tokens, seed, batch_size)
        ]
    else:
        texts = writer.texts(given, sampling, max_new_tokens, stop or (), seed, samples)
        _write(writer, texts, [one for one in given for _ in range(samples)], batch_size)
        rows = [row(text, given[i // samples], i % samples, seed) for i, text in enumerate(texts)]
    path = Path(out) if out else writer.folder / "generate" / "texts.jsonl"
    write_text(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows))
    print(f"written: {path} ({len(rows)} texts)")


def read_prompts(path: str | Path) -> list[str]:
    """Read a file of prompts, one a line; lines that begin with # and empty ones are left out.

    Raises:
        DataError: There is no such file, it is not UTF-8, or has no prompt.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}); give one prompt a line") from error
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise DataError(f"{path}: no prompt in it; write one a line")
    return found


def row(text: Text, prompt: str, sample: int, seed: int) -> dict[str, Any]:
    """Return what the file keeps of a text."""
    return {
        "prompt": prompt,
        "text": text.written.text,
        "sample": sample,
        "seed": seed,
        "tokens": len(text.tokens),
        "ended": text.ended,
        "off_likeliest": text.off_likeliest,
        **asdict(text.sampling),
    }


def _write(writer: Writer, texts: Sequence[Text], prompts: Sequence[str], batch_size: int) -> None:
    """Write texts; a single one appears as it grows, several when they are done."""
    if len(texts) == 1:
        print(prompts[0], end="", flush=True)
        continue_texts(
            *(writer.net, texts, writer.window, writer.vocabulary.end),
            show=lambda _, piece: print(printable(piece), end="", flush=True),
        )
        print(flush=True)
        return
    with tqdm(total=sum(text.limit for text in texts), unit="piece", disable=None) as bar:
        continue_texts(
            *(writer.net, texts, writer.window, writer.vocabulary.end, batch_size), show=lambda *_: bar.update()
        )
    for prompt, text in zip(prompts, texts, strict=True):
        print(f"--- {prompt}{printable(text.written.text)}")
