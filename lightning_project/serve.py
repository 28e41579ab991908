"""The verb `serve`: a language model behind HTTP. POST a prompt to /generate, and the text comes as it is written."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import Annotated, Literal

from lightning_project.exits import UsageError
from lightning_project.serve_page import page
from lightning_project.writer import Writer
from modules.decoding import Text, WindowReader, write
from modules.generation import Sampling, Strategy

try:
    import litserve
    from fastapi.responses import HTMLResponse
    from pydantic import BaseModel, ConfigDict, Field
except ImportError as error:  # an extra
    raise UsageError("serve needs LitServe: from the checkout, pip install -e '.[serve]'") from error

LONGEST_PROMPT, MOST_TOKENS, LARGEST_REQUEST = 4000, 500, 64 * 1024


class Wish(BaseModel):
    """What a request may ask for; anything else, or more, is refused with 422 before it reaches the model."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = Field(max_length=LONGEST_PROMPT)
    strategy: Strategy = "top_p"
    temperature: float = Field(1.0, gt=0, le=10)
    top_k: int = Field(40, ge=1, le=1_000_000)
    top_p: float = Field(0.9, gt=0, le=1)
    repetition_penalty: float = Field(1.0, ge=1, le=10)
    frequency_penalty: float = Field(0.0, ge=0, le=10)
    no_repeat_ngram: int = Field(0, ge=0, le=100)
    max_new_tokens: int = Field(100, ge=1, le=MOST_TOKENS)
    stop: list[Annotated[str, Field(min_length=1, max_length=100)]] = Field([], max_length=8)
    seed: int = Field(0, ge=0, lt=2**32)

    def sampling(self) -> Sampling:
        """Return how to choose tokens."""
        return Sampling(
            self.strategy,
            self.temperature,
            self.top_k,
            self.top_p,
            self.repetition_penalty,
            self.frequency_penalty,
            self.no_repeat_ngram,
        )


class GenerationServer(litserve.LitAPI):
    """Writes texts for several requests at once; each comes out as it would alone.

    Args:
        ckpt_path: Of the run, as for `generate`.
        name: Name of the run.
        runs: Folder of all runs.
        batch_size: Requests at once.
        wait: Seconds to wait for further requests.
        int8: Write with weights in int8, on the CPU.
    """

    def __init__(
        self, ckpt_path: str, name: str | None, runs: str, batch_size: int, wait: float, int8: bool = False
    ) -> None:
        super().__init__(max_batch_size=batch_size, batch_timeout=wait, stream=True, api_path="/generate")
        self.run, self.int8 = (ckpt_path, name, runs), int8

    def setup(self, device: str) -> None:
        """Load the model, once in each worker."""
        self.writer = Writer.of_run(*self.run, device=device, int8=self.int8)

    # the library finds these arguments by their names

    def decode_request(self, request: Wish) -> Wish:
        """Take a request whose values were checked."""
        return request

    def batch(self, inputs: list[Wish]) -> list[Wish]:
        """Keep several requests as a list, and make one of a single request."""
        return inputs

    def predict(self, x: list[Wish]) -> Iterator[list[str]]:
        """Yield for each request what can be shown now."""
        writer, texts = self.writer, [self._text(wish) for wish in x]
        reader = WindowReader(writer.net, len(texts), writer.window)
        yield from write(reader, texts, writer.vocabulary.end, writer.device)

    def unbatch(self, output: Iterator[list[str]]) -> Iterator[list[str]]:
        """Pass the pieces on."""
        yield from output

    def encode_response(self, output: Iterator[list[str]]):  # type: ignore[no-untyped-def]  # noqa: ANN201  # the library takes what is named here for a response class
        """Send plain text."""
        yield from output

    def _text(self, wish: Wish) -> Text:
        writer = self.writer
        decode = writer.vocabulary.decode
        return Text.make(
            0, writer.prompt(wish.prompt), wish.sampling(), wish.max_new_tokens, wish.seed, decode, tuple(wish.stop)
        )


def serve(
    ckpt_path: str = "best",
    name: str | None = None,
    runs: str = "runs",
    host: Literal["127.0.0.1", "0.0.0.0", "::"] = "127.0.0.1",
    port: int = 8000,
    batch_size: int = 8,
    wait: float = 0.05,
    timeout: float = 60.0,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    int8: bool = False,
) -> None:
    """Serve the model of a run: POST /generate {"prompt": ...} answers with text as it is written; /form is a page.

    Args:
        ckpt_path: best, last, a run folder, or a checkpoint in one.
        name: Name of the run; the newest where nothing is named.
        runs: Folder of all runs.
        host: Address to listen on; 127.0.0.1 is reached from this machine only, the others from everywhere.
        port: Port.
        batch_size: Requests that are answered at once, at most.
        wait: Seconds that a request waits for others to come along.
        timeout: Seconds after which a request that waits in the queue is given up.
        device: Where the model is.
        int8: Write with weights in int8, on the CPU.

    Raises:
        UsageError: A value without a meaning.
    """
    if batch_size < 2 or not 0 <= wait < timeout or not 1024 <= port < 65536:
        raise UsageError("serve needs a batch_size of at least 2, 0 <= wait < timeout, and a port from 1024 to 65535")
    Writer.of_run(ckpt_path, name, runs, "cpu")  # what is wrong with the run is said here, and not by a worker
    server = litserve.LitServer(
        GenerationServer(ckpt_path, name, runs, batch_size, wait, int8),
        accelerator="cpu" if int8 else device,
        devices=1,
        timeout=timeout,
        max_payload_size=LARGEST_REQUEST,
    )
    server.app.get("/form", response_class=HTMLResponse)(lambda: page(LONGEST_PROMPT, MOST_TOKENS))
    _end_together()
    print(f"form: http://{host}:{port}/form", flush=True)
    server.run(
        host=host,
        port=port,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )


def _end_together() -> None:
    """Let a signal end the library's processes with this one; its own way leaves some of them behind (0.2.19)."""
    first = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() == first:  # the others have inherited this
            for process in multiprocessing.active_children():
                process.kill()
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
