"""The verb `cache`: fetch the images of records into a folder ahead of training, which itself asks no network."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from callbacks.report_files import write_json
from datamodules.errors import DataError
from datamodules.image_cache import ImageCache
from datamodules.image_download import FAILED, Counts, Download, read_failed
from datamodules.image_pace import Manners
from datamodules.licences import parse_licence
from lightning_project.exits import UsageError


def cache(
    files: list[str],
    folder: str = "cache/images",
    max_gb: float = 100.0,
    offline: bool = False,
    permissive: bool = False,
    retry_failed: bool = False,
    least_pixels: int = 50,
    most_pixels: int = 5000,
    per_second: float = 5.0,
    workers: int = 8,
    timeout: float = 10.0,
    tries: int = 3,
    pause: float = 1.0,
    backoff: float = 60.0,
    backoff_most: float = 600.0,
    url_field: str = "image_url",
    license_field: str = "license",
) -> None:
    """Fetch the pictures at the records' addresses; run it again to go on where it stopped.

    Args:
        files: JSON Lines files of records.
        folder: Where the images go: the `data.image_cache` of a fit.
        max_gb: Limit of the folder, in 10^9 bytes; images that these records do not need give way first.
        offline: Ask no network; only count what is there.
        permissive: Leave out images whose licence does not allow commercial use and changes.
        retry_failed: Ask again for what an earlier call found to be missing or unreadable.
        least_pixels: Shortest side of an image that is kept.
        most_pixels: Longest side of an image that is kept.
        per_second: Requests a second to one host.
        workers: Requests under way at the same time.
        timeout: Seconds that a host may be silent.
        tries: Attempts for one image.
        pause: Seconds before the second attempt; doubles.
        backoff: Seconds of silence after a first answer 429 that does not say how long; doubles.
        backoff_most: Most seconds of such a silence; a host that asks for more is left alone in this call.
        url_field: Field of the address, as `data.columns.url` of a fit.
        license_field: Field of the licence, as `data.columns.license`.

    Raises:
        UsageError: A number that makes no sense.
        DataError: A record cannot be read, or the folder is full.
    """
    if max_gb <= 0 or not 1 <= least_pixels <= most_pixels:
        raise UsageError("max_gb must be above 0, and 1 <= least_pixels <= most_pixels")
    try:
        manners = Manners(per_second, workers, timeout, tries, pause, backoff, backoff_most)
    except ValueError as error:
        raise UsageError(str(error)) from error
    wanted, without = addresses(files, permissive, url_field, license_field)
    if not wanted:
        raise DataError(
            f"{', '.join(files)}: no record has an address in {url_field!r}" + (" of such a licence" * permissive)
        )
    store = ImageCache(folder, int(max_gb * 1e9))
    download = Download(store, wanted, manners, (least_pixels, most_pixels), retry_failed)
    if offline:
        left = download.missing()
        counts = download.counts
    else:
        counts = download.run()
        left = []
    print("\n".join(_lines(counts, without, len(left), store)))
    print(f"written: {write_json(Path(folder) / 'counts.json', asdict(counts) | without | {'missing': len(left)})}")


def addresses(
    files: Iterable[str], permissive: bool = False, url_field: str = "image_url", license_field: str = "license"
) -> tuple[dict[str, str], dict[str, int]]:
    """Read the addresses of JSON Lines files.

    Returns:
        Where each address stands first, by address; and how many records have none, repeat one, or are left out.

    Raises:
        DataError: A line that is no JSON object, naming file and line.
    """
    wanted: dict[str, str] = {}
    without = {"records": 0, "without_url": 0, "repeated": 0, "other_licence": 0}
    for name in files:
        try:
            lines = Path(name).read_bytes().decode("utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{name}: cannot be read ({error}); give a JSON Lines file of records") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                url = record.get(url_field) or ""
            except (ValueError, AttributeError) as error:
                raise DataError(f"{name}, line {number}: no JSON object ({error}); mend or remove the line") from error
            without["records"] += 1
            if not isinstance(url, str) or not url:
                without["without_url"] += 1
            elif permissive and not parse_licence(str(record.get(license_field) or "")).permissive:
                without["other_licence"] += 1
            elif url in wanted:
                without["repeated"] += 1
            else:
                wanted[url] = f"{name}, line {number}"
    return wanted, without


def _lines(counts: Counts, without: dict[str, int], missing: int, store: ImageCache) -> list[str]:
    """What is printed at the end."""
    have = counts.cached + counts.downloaded
    lines = [
        f"{without['records']} records, {counts.wanted} different addresses; {have} images are in {store.folder} "
        f"({store.size / 1e9:.3f} of {store.max_bytes / 1e9:g} GB)",
        *(f"  {name:<19} {value}" for name, value in asdict(counts).items()),
        *(f"  {name:<19} {value}" for name, value in without.items() if name != "records"),
    ]
    if missing:
        lines.append(f"  {'missing':<19} {missing} (not asked for: offline)")
    failures = read_failed(store.folder)
    lines += [f"  {entry['record']}: {entry['outcome']}: {entry['reason']}" for entry in failures[:5]]
    if failures:
        lines.append(f"all that could not be had: {store.folder / FAILED} ({len(failures)})")
    return lines
