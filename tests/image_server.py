"""A server of images on this machine that fails on purpose, and counts what it was asked for."""

import io
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Site:
    """What is answered, by (path, number of the request for this path, from 0)."""

    answer: Callable[[str, int], Answer]
    address: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


def picture(name: str, size: tuple[int, int] = (64, 64)) -> bytes:
    """A small JPEG that depends on a name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).resize(size).save(buffer, "JPEG")
    return buffer.getvalue()


@contextmanager
def serving(answer: Callable[[str, int], Answer]) -> Iterator[Site]:
    """Serve on a free port of this machine until the end of the block."""
    site = Site(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with site.lock:
                turn = site.asked[self.path]
                site.asked[self.path] += 1
            status, headers, body = site.answer(self.path, turn)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
