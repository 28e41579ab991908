"""Images fetched ahead of training from a server that fails on purpose: all that can be had arrives, all is counted."""

import json
import threading
import time
from datetime import UTC, datetime

import pytest

from datamodules.errors import DataError
from datamodules.image_cache import ImageCache, file_of
from datamodules.image_download import Download, read_failed, unreadable
from datamodules.image_pace import Host, Manners, retry_after
from lightning_project.cache import addresses
from tests.image_server import picture, serving
from tests.running import code

QUICK = ["--per_second", "10000", "--pause", "0.001", "--backoff", "0.01", "--backoff_most", "0.04", "--timeout", "5"]
FAST = Manners(per_second=10_000, pause=0.001, backoff=0.02, backoff_most=0.2, timeout=5)


def number(path):
    return int(path.split("/")[-1].split(".")[0])


def failing(path, turn):
    """Of 100 files, 20 are refused once, 5 are corrupt, 3 are gone, 2 fail once, 1 comes cut short once."""
    n, body = number(path), picture(path)
    if n % 5 == 0 and turn == 0:
        return 429, {"Retry-After": "0"} if n % 10 else {}, b"slow down"
    if n % 20 == 1:
        return 200, {}, body[: len(body) // 2]
    if n in (3, 43, 83):
        return 404, {}, b""
    if n in (4, 44) and turn == 0:
        return 503, {}, b""
    if n == 6 and turn == 0:
        return 200, {"Content-Length": str(len(body) + 100), "Connection": "close"}, body[:100]
    return 200, {}, body


def write(path, urls, **fields):
    path.write_text("".join(json.dumps({"latin_name": "Rosa canina", "image_url": u, **fields}) + "\n" for u in urls))
    return str(path)


def test_all_that_can_be_had_arrives_and_the_second_run_downloads_nothing(tmp_path, capsys):
    with serving(failing) as site:
        urls = [f"{site.address}/{n}.jpg" for n in range(100)]
        records = write(tmp_path / "plants.jsonl", [*urls, urls[0], ""])
        words = ["cache", records, "--folder", "images", *QUICK]
        assert code(words, config=False) == 0
        counts = json.loads((tmp_path / "images" / "counts.json").read_text())
        assert counts["records"] == 102 and counts["repeated"] == 1 and counts["without_url"] == 1
        assert counts["wanted"] == 100 and counts["cached"] == 0
        assert counts["downloaded"] == 92 and counts["invalid"] == 5 and counts["failed"] == 3
        assert counts["rate_limited"] == 20 and counts["rate_limited_skips"] == 0
        assert counts["requests"] == site.asked.total() == 92 + 20 + 2 + 1 + 5 * 3 + 3
        for n in range(100):
            path = file_of("images", urls[n])
            had = n % 20 != 1 and n not in (3, 43, 83)
            assert path.is_file() == had
            assert not had or path.read_bytes() == picture(f"/{n}.jpg")
        said = capsys.readouterr().out
        assert "plants.jsonl, line 4: failed: HTTP 404" in said
        before = site.asked.total()
        assert code(words, config=False) == 0
        assert site.asked.total() == before
        again = json.loads((tmp_path / "images" / "counts.json").read_text())
        assert (again["cached"], again["downloaded"], again["invalid"], again["failed"]) == (92, 0, 5, 3)
        assert code([*words, "--retry_failed", "true"], config=False) == 0
        assert site.asked.total() == before + 3 + 5 * 3
    assert not list((tmp_path / "images").glob("*.part"))


def test_offline_asks_nobody_and_says_what_is_missing(tmp_path, capsys):
    with serving(failing) as site:
        records = write(tmp_path / "plants.jsonl", [f"{site.address}/{n}.jpg" for n in (2, 7, 8)])
        assert code(["cache", records, "--folder", "images", "--offline", "true"], config=False) == 0
        assert site.asked.total() == 0
    assert "missing             3 (not asked for: offline)" in capsys.readouterr().out


def test_only_permissive_images_are_fetched_where_asked(tmp_path):
    with serving(failing) as site:
        free = write(tmp_path / "free.jsonl", [f"{site.address}/2.jpg"], license="CC-BY 4.0")
        bound = write(tmp_path / "bound.jsonl", [f"{site.address}/7.jpg"], license="CC-BY-NC 4.0")
        assert code(["cache", free, bound, "--folder", "images", "--permissive", "true", *QUICK], config=False) == 0
        assert set(site.asked) == {"/2.jpg"}


def test_a_stopped_download_goes_on(tmp_path):
    urls = []

    def dying(path, turn):
        return failing(path, turn) if number(path) < 30 else (500, {}, b"")

    with serving(lambda path, turn: answer(path, turn)) as site:
        urls = [f"{site.address}/{n}.jpg" for n in range(60) if n % 5 and n % 20 != 1 and n not in (3, 4, 6, 43, 44)]
        wanted = dict.fromkeys(urls, "a.jsonl, line 1")
        answer = dying
        first = Download(ImageCache("images", 10**9), wanted, FAST).run()
        assert 0 < first.downloaded < len(urls) and first.failed == len(urls) - first.downloaded
        answer = failing
        before = site.asked.total()
        second = Download(ImageCache("images", 10**9), wanted, FAST).run()
        assert second.cached == first.downloaded and second.downloaded == first.failed
        assert site.asked.total() - before == first.failed
    assert read_failed("images") == []


def test_a_host_that_keeps_refusing_is_left_alone_and_the_rest_is_counted():
    with serving(lambda path, turn: (429, {}, b"")) as site:
        wanted = {f"{site.address}/{n}.jpg": f"a.jsonl, line {n}" for n in range(40)}
        counts = Download(ImageCache("images", 10**9), wanted, FAST).run()
    assert counts.rate_limited_skips == 40 and counts.downloaded == 0
    assert counts.rate_limited < 8 * 8 + 8  # eight silences, each after at most eight requests under way
    assert all(not entry["final"] for entry in read_failed("images"))


def test_a_host_that_asks_for_an_hour_is_left_alone_at_once():
    with serving(lambda path, turn: (429, {"Retry-After": "3600"}, b"")) as site:
        wanted = {f"{site.address}/{n}.jpg": "a.jsonl, line 1" for n in range(40)}
        start = time.monotonic()
        manners = Manners(per_second=10_000, backoff=0.02, backoff_most=0.2, workers=2)
        counts = Download(ImageCache("images", 10**9), wanted, manners)
        thread = threading.Timer(2.0, counts._stop.set)
        thread.start()
        found = counts.run()
        thread.cancel()
    assert found.rate_limited_skips == 40 and found.rate_limited <= 2
    assert time.monotonic() - start < 1.5


def test_a_worker_that_waits_for_its_turn_does_not_wait_for_a_host_left_alone():
    host = Host(Manners(), lambda: 0.0)
    host.refused(0.0, 3600.0)
    assert host.left_alone and host.silence() == 0 and host.turn() == 0


def test_a_back_off_doubles_from_60_to_600_seconds_and_starts_again_after_an_answer():
    now = [0.0]
    host = Host(Manners(refusals=99), lambda: now[0])
    waits = []
    for _ in range(6):
        host.refused(now[0] + 1e-9, None)
        waits.append(host.silence())
        host.refused(now[0], None)  # was under way when the silence began: counts once
        assert host.silence() == waits[-1]
        now[0] += waits[-1] + 1
    assert waits == [60, 120, 240, 480, 600, 600]
    host.answered()
    host.refused(now[0], None)
    assert host.silence() == 60
    now[0] += 61
    host.refused(now[0], 7.0)
    assert host.silence() == 7


def test_turns_are_evenly_spaced():
    host = Host(Manners(per_second=4), lambda: 100.0)
    assert [host.turn() for _ in range(4)] == [0, 0.25, 0.5, 0.75]


def test_retry_after_is_seconds_or_a_date():
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after("120") == 120
    assert retry_after("Thu, 01 Jan 2026 12:02:00 GMT", now) == 120
    assert retry_after("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0
    assert retry_after("soon") is None and retry_after(None) is None


def test_images_that_nobody_needs_give_way_longest_unwanted_first(tmp_path):
    import os

    store = ImageCache(tmp_path / "c", 1000)
    for n in range(4):
        os.utime(store.add(f"u{n}", bytes(200)), (n, n))
    store.touch("u0")
    store.add("u4", bytes(400))
    assert [f"u{n}" in store for n in range(5)] == [True, False, False, True, True]
    assert store.size == 800 and store.evicted == 2
    assert ImageCache(tmp_path / "c", 1000).size == 800


def test_a_cache_full_of_what_is_needed_says_so(tmp_path, capsys):
    with serving(lambda path, turn: (200, {}, picture(path))) as site:
        records = write(tmp_path / "plants.jsonl", [f"{site.address}/{n}.jpg" for n in range(20)])
        words = ["cache", records, "--folder", "images", *QUICK]
        assert code([*words, "--max_gb", "0.00002"], config=False) == 3
        said = capsys.readouterr().err
        assert "images: the cache is full" in said and "raise --max_gb" in said
        kept = list((tmp_path / "images").glob("*.jpg"))
        assert 0 < sum(path.stat().st_size for path in kept) <= 20_000
        assert code(words, config=False) == 0
        assert len(list((tmp_path / "images").glob("*.jpg"))) == 20


def test_a_full_disk_says_so(tmp_path, monkeypatch):
    import errno
    import os

    store = ImageCache(tmp_path / "c", 1000)

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="c: the disk is full"):
        store.add("u", b"x")
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "c").iterdir() if path.suffix in (".jpg", ".part")] == []


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be used as a cache"):
        ImageCache(tmp_path / "file" / "c", 10)


def test_two_fillers_of_one_folder_keep_its_size(tmp_path):
    first, second = ImageCache(tmp_path / "c", 5000), ImageCache(tmp_path / "c", 5000)

    def fill(store, name):
        for n in range(40):
            store.add(f"{name}{n % 30}", bytes(100 + n))

    threads = [threading.Thread(target=fill, args=(s, n)) for s, n in ((first, "a"), (second, "b"), (first, "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    real = sum(path.stat().st_size for path in (tmp_path / "c").glob("*.jpg"))
    assert first.size == second.size == real <= 5000


@pytest.mark.parametrize(
    ("size", "reason"), [((1, 1), "1 x 1 pixels"), ((64, 6000), "64 x 6000 pixels"), ((64, 64), "")]
)
def test_images_of_a_senseless_size_are_invalid(size, reason):
    import numpy as np
    from PIL import Image

    from datamodules.image_download import wrong_size

    def png():
        import io

        buffer = io.BytesIO()
        Image.fromarray(np.zeros(size[::-1], np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    assert wrong_size(png(), (50, 5000)).startswith(reason)
    assert unreadable(png()) == ""


def test_a_bomb_of_pixels_is_invalid_and_never_unpacked():
    import io

    from PIL import Image

    from datamodules.image_download import wrong_size

    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    assert "pixels" in wrong_size(buffer.getvalue(), (50, 5000))


def test_a_line_cut_in_half_names_file_and_line(tmp_path, capsys):
    path = tmp_path / "plants.jsonl"
    path.write_text('{"image_url": "http://127.0.0.1:9/a.jpg"}\n{"image_url": "http://127.0')
    assert code(["cache", str(path)], config=False) == 3
    assert "plants.jsonl, line 2: no JSON object" in capsys.readouterr().err
    path.write_text('{"image_url": "ftp://127.0.0.1/a.jpg"}\n')
    assert code(["cache", str(path), "--folder", "images"], config=False) == 0
    assert "no http address" in capsys.readouterr().out


def test_addresses_are_read_as_a_fit_reads_them(tmp_path):
    record = {"photo": "http://h/1.jpg", "rights": "CC-BY", "attribution": "A\u2028B"}
    other = {"photo": "http://h/2.jpg", "rights": "CC-BY-NC"}
    path = tmp_path / "own.jsonl"
    lines = [json.dumps(line, ensure_ascii=False) for line in (record, other)]
    path.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    wanted, without = addresses([str(path)], True, "photo", "rights")
    assert wanted == {"http://h/1.jpg": f"{path}, line 1"} and without["other_licence"] == 1
    assert addresses([str(path)])[1]["without_url"] == 2
