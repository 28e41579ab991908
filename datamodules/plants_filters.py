"""Which records of plants are used at all: by region and by licence; and whom the rest obliges to name (pure)."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from datamodules.audit import STORED, Finding
from datamodules.errors import DataError
from datamodules.licences import attribution_table, licence_table, parse_licence
from datamodules.plants_regions import UNKNOWN, check_regions, settle_regions

Licences = Literal["any", "permissive"]


def keep_rows(
    records: pd.DataFrame, regions: Sequence[str] | None, licences: Licences
) -> tuple[pd.DataFrame, list[Finding]]:
    """Settle the region of every record, and keep those of some regions and licences, in all parts alike.

    Args:
        records: Columns id, label, region, country, license, image_source, source_file, line.
        regions: Regions to keep; ``None`` keeps all.
        licences: ``permissive`` keeps what allows commercial use and changes.

    Returns:
        The records that are kept, their ``region`` settled, and what was found.

    Raises:
        DataError: A region that is not known, or nothing is left.
    """
    if licences not in ("any", "permissive"):
        raise ValueError(f"licences={licences!r} must be any or permissive")
    wanted = None if regions is None else check_regions(regions)
    settled, strange = settle_regions(records["region"].tolist(), records["country"].tolist())
    found = _strange_regions(records, strange)
    records = records.assign(region=settled)
    found += _licences(records)
    found += _counted(records, "region", "regions")
    found += _counted(records, "image_source", "image_sources")
    if wanted is not None:
        keep = records["region"].isin(wanted).to_numpy(bool)
        found += _left_out(records, keep, "region_filter", f"records lie outside the regions {', '.join(wanted)}")
        records = records[keep]
    if licences == "permissive":
        allowed = {text: parse_licence(text).permissive for text in records["license"].unique()}
        keep = records["license"].map(allowed).to_numpy(bool)
        found += _left_out(records, keep, "licence_filter", "records have a licence that does not allow commercial use "
                           "and changes, or is not understood")  # fmt: skip
        records = records[keep]
    if records.empty:
        raise DataError("the filters by region and licence leave no record: widen data.regions or data.licences")
    return records.reset_index(drop=True), found


def write_attributions(records: pd.DataFrame, path: str | os.PathLike[str]) -> int:
    """Write whom the records' licences oblige to name, as CSV; returns the number of lines below the header.

    Args:
        records: Columns id, label, license, attribution, url.
        path: The file; an existing one is replaced at once.
    """
    table = attribution_table(records.rename(columns={"url": "image_url"}))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        table.to_csv(part, index=False, encoding="utf-8", lineterminator="\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return len(table)


def _strange_regions(records: pd.DataFrame, strange: np.ndarray) -> list[Finding]:
    if not strange.any():
        return []
    rows = records[strange]
    lines = rows["source_file"].astype(str) + ", line " + rows["line"].astype(str) + ": region " + rows["region"]
    message = (
        f"{len(rows)} records state a region that is not known; each counts as that of its country, else as {UNKNOWN}. "
        "Correct the field `region`."
    )
    return [Finding("unknown_region", "warning", message, len(rows), rows["id"].tolist()[:STORED],
                    lines.tolist()[:STORED])]  # fmt: skip


def _licences(records: pd.DataFrame) -> list[Finding]:
    if not (records["license"] != "").any():
        return []
    table = licence_table(records["license"])
    permissive = int(table.loc[table["permissive"], "images"].sum())
    listed = [f"{code}: {int(count)}" for code, count in table["images"].items()]
    message = f"{permissive} of {len(records)} records have a licence that allows commercial use and changes."
    return [Finding("licences", "info", message, len(table), [], listed)]


def _counted(records: pd.DataFrame, column: str, kind: str) -> list[Finding]:
    """Say how many records there are of each value of a column, if it says anything."""
    counts = records[column].replace("", UNKNOWN).value_counts()
    if set(counts.index) <= {UNKNOWN}:
        return []
    listed = [f"{name}: {count}" for name, count in counts.items()]
    return [Finding(kind, "info", f"{len(counts)} different, by number of records.", len(counts), [], listed[:STORED])]


def _left_out(records: pd.DataFrame, keep: np.ndarray, kind: str, what: str) -> list[Finding]:
    gone = records[~keep]
    if gone.empty:
        return []
    lost = len(set(gone["label"]) - set(records["label"][keep]) - {""})
    message = f"{len(gone)} of {len(records)} {what}; left out, and with them {lost} classes altogether."
    where = gone["source_file"].astype(str) + ", line " + gone["line"].astype(str) + ": " + gone["id"].astype(str)
    rows, lines = gone["id"].tolist()[:STORED], where.tolist()[:STORED]
    return [Finding(kind, "info", message, len(gone), rows, lines)]
