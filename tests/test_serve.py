"""A language model behind HTTP: the text of `generate`, batched and streamed, and requests that ask for too much."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lightning_project.serve_page import page
from tests.running import ROOT, code, fitted_run, run

pytest.importorskip("litserve")
PROMPTS = ("The town of", "In the year", "He", "She wrote a long book about the history of")


@dataclass(frozen=True)
class Answer:
    """What came back, and in how many pieces."""

    status: int
    text: str
    pieces: int


def ask(port: int, wish: object, path: str = "/generate", method: str = "POST") -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = wish if isinstance(wish, str) else json.dumps(wish)
    connection.request(method, path, body, {"content-type": "application/json"})
    response = connection.getresponse()
    pieces = []
    while piece := response.read1():
        pieces.append(piece)
    connection.close()
    return Answer(response.status, b"".join(pieces).decode(), len(pieces))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def alive(group: int) -> list[str]:
    """The processes of a group that run, where the system tells; those that wait to be forgotten do not count."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, own = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # ended meanwhile
            continue
        found += [path.parent.name] if int(own) == group and state != "Z" else []
    return found


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return fitted_run(tmp_path_factory, "language")


@pytest.fixture(scope="module")
def port(fitted, tmp_path_factory):
    """A server in a process of its own, ended with all that it started."""
    number, log = free_port(), tmp_path_factory.mktemp("serve") / "log.txt"
    words = ["serve", "--ckpt_path", str(fitted), "--device", "cpu", "--port", str(number), "--batch_size", "4"]
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "lightning_project", *words, "--wait", "0.2"],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + 240
        while True:
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            try:
                if ask(number, "", "/health", "GET").status == 200:
                    break
            except OSError:
                pass
            time.sleep(0.2)
        yield number
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        assert "form: http" in log.read_text() and "Traceback" not in log.read_text()
        until = time.monotonic() + 10
        while alive(process.pid) and time.monotonic() < until:
            time.sleep(0.1)
        assert not alive(process.pid)  # nothing of the server is left
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def test_answers_are_the_texts_of_generate_alone_and_side_by_side(port, fitted):
    expected = []
    for prompt in PROMPTS:
        run(["generate", "--ckpt_path", str(fitted), "--prompt", prompt, "--out", "one.jsonl", "--device", "cpu",
             "--max_new_tokens", "30", "--seed", "5"], config=False)  # fmt: skip
        with open("one.jsonl", encoding="utf-8") as file:
            expected.append(json.loads(file.read())["text"])
    wishes = [{"prompt": prompt, "max_new_tokens": 30, "seed": 5} for prompt in PROMPTS]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda wish: ask(port, wish), wishes))
    assert [answer.status for answer in answers] == [200] * 4
    assert [answer.text for answer in answers] == expected
    assert ask(port, wishes[0]).text == expected[0]


def test_a_text_comes_in_pieces_and_requests_differ(port):
    long = ask(port, {"prompt": "He", "max_new_tokens": 60, "strategy": "temperature"})
    assert long.status == 200 and long.pieces > 5
    assert ask(port, {"prompt": "He", "max_new_tokens": 60, "strategy": "temperature", "seed": 1}).text != long.text
    stop = long.text[10:12]
    cut = ask(port, {"prompt": "He", "max_new_tokens": 60, "strategy": "temperature", "stop": [stop]})
    assert cut.text == long.text.split(stop)[0]


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({}, 422),
        ({"prompt": 3}, 422),
        ({"prompt": "a", "colour": "red"}, 422),
        ({"prompt": "a", "temperature": 0}, 422),
        ({"prompt": "a", "top_k": 0}, 422),
        ({"prompt": "a", "strategy": "beam"}, 422),
        ({"prompt": "a", "max_new_tokens": 501}, 422),
        ({"prompt": "a", "stop": [""]}, 422),
        ({"prompt": "a" * 4001}, 422),
        ("no json", 422),
        ({"prompt": "a" * 70_000}, 413),
    ],
)
def test_what_asks_for_too_much_is_refused_and_the_server_goes_on(port, wish, status):
    assert ask(port, wish).status == status
    assert ask(port, {"prompt": "He", "max_new_tokens": 2}).status == 200


def test_the_form_is_served_and_says_its_bounds(port):
    answer = ask(port, "", "/form", "GET")
    assert answer.status == 200 and answer.text == page(4000, 500)
    assert '<textarea name="prompt"' in answer.text and 'maxlength="4000"' in answer.text and "/generate" in answer.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "80"], "a port from 1024"),
        (["--batch_size", "1"], "batch_size of at least 2"),
        (["--ckpt_path", "nowhere"], "nowhere"),
    ],
)
def test_a_server_that_cannot_be_is_refused_in_one_line(words, message, capsys):
    assert code(["serve", *words], config=False) == 2
    assert message in capsys.readouterr().err


def test_the_image_starts_the_server():
    """Parsed only: no image is built here."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    assert steps[0][0] == "FROM" and steps[0][1].startswith("python:3.11")
    known = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
    assert {step for step, _ in steps} <= known
    copied = [name for step, rest in steps if step == "COPY" for name in rest.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    assert any("--require-hashes -r requirements/lock.txt" in rest for step, rest in steps if step == "RUN")
    start = [word for step, rest in steps if step in ("ENTRYPOINT", "CMD") for word in yaml.safe_load(rest)]
    assert start[:4] == ["python", "-m", "lightning_project", "serve"] and "0.0.0.0" in start
