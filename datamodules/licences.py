"""What a licence allows, read from the many ways it is written; and who has to be named (pure).

"CC-BY-NC" contains "CC-BY" and allows less: a licence is read as a whole, never searched for a substring. What is not
understood allows nothing.
"""

import re
from dataclasses import dataclass

import pandas as pd

_VERSION = re.compile(r"(?<![\d.])([1-4]\.[05])(?![\d.])")
_PARTS = {"by": "BY", "nc": "NC", "nd": "ND", "sa": "SA"}
_SPELT_OUT = (
    (r"non[- ]?commercial", "nc"),
    (r"no[- ]?deriv(?:ative)?s?(?:[- ]works)?", "nd"),
    (r"share[- ]?alike", "sa"),
    (r"attribution", "by"),
)
_FREE = re.compile(r"\b(?:cc[- ]?0|cc[- ]?zero|public[- ]?domain|pdm|no known copyright(?: restrictions)?)\b")
_NOISE = re.compile(r"\b(?:https?|www|creativecommons|org|licen[sc]es?|cc|creative|commons|the|under|international|"
                    r"unported|generic|deed|legalcode|igo|only|en|mark|zero|universal|dedication|\d+)\b")  # fmt: skip


@dataclass(frozen=True)
class Licence:
    """What a licence allows.

    Attributes:
        code: ``CC0``, ``PUBLIC-DOMAIN``, ``CC-BY``, ``CC-BY-NC-SA`` and the like; ``OTHER`` where it is not understood.
        version: Such as "4.0", or "".
        attribution: The author has to be named; asked of what is not understood, too.
        commercial: Commercial use is allowed.
        derivatives: Changed copies, such as crops, are allowed.
        share_alike: Changed copies have to carry the same licence.
    """

    code: str
    version: str = ""
    attribution: bool = True
    commercial: bool = False
    derivatives: bool = False
    share_alike: bool = False

    @property
    def permissive(self) -> bool:
        """Commercial use and changes are both allowed: CC0, public domain, CC-BY, CC-BY-SA."""
        return self.commercial and self.derivatives


def parse_licence(text: str) -> Licence:
    """Read a licence: a code ("cc-by-nc"), its name spelt out, or the address of its deed."""
    plain = re.sub(r"[_\s]+", " ", text.strip().lower())
    found = _VERSION.search(plain)
    version = found.group(1) if found else ""
    if _FREE.search(plain) and not re.search(r"\b(?:nc|nd|sa|not)\b", plain):
        code = "CC0" if re.search(r"\bcc[- ]?0\b|zero", plain) else "PUBLIC-DOMAIN"
        return Licence(code, version, attribution=False, commercial=True, derivatives=True)
    for words, part in _SPELT_OUT:
        plain = re.sub(words, part, plain)
    pieces = [piece for piece in re.split(r"[^a-z]+", _NOISE.sub(" ", _VERSION.sub(" ", plain))) if piece]
    named = re.search(r"\bcc\b|creative ?commons|\bby\b", plain)
    if not named or "by" not in pieces or not set(pieces) <= set(_PARTS):
        return Licence("OTHER", version)
    parts = [name for key, name in _PARTS.items() if key in pieces]
    return Licence(
        "-".join(["CC", *parts]),
        version,
        commercial="NC" not in parts,
        derivatives="ND" not in parts,
        share_alike="SA" in parts,
    )


def licence_table(licences: pd.Series) -> pd.DataFrame:
    """Count licences: index code, columns images, permissive, attribution; most frequent first."""
    known = {text: parse_licence(text) for text in licences.unique()}
    codes = licences.map(lambda text: known[text].code)
    facts = {found.code: found for found in known.values()}
    counts = codes.value_counts()
    return pd.DataFrame(
        {
            "images": counts,
            "permissive": [facts[code].permissive for code in counts.index],
            "attribution": [facts[code].attribution for code in counts.index],
        }
    ).rename_axis("licence")


def attribution_table(records: pd.DataFrame) -> pd.DataFrame:
    """List whom a set of images obliges to name.

    Args:
        records: Columns id, label, license, attribution, image_url, all text.

    Returns:
        One row an image whose licence asks for it: id, species, licence (read), license (as given), attribution, url.
        Where the source names nobody, ``attribution`` says so.
    """
    read = [parse_licence(text) for text in records["license"]]
    table = pd.DataFrame(
        {
            "id": records["id"].to_numpy(),
            "species": records["label"].to_numpy(),
            "licence": [found.code + (f" {found.version}" if found.version else "") for found in read],
            "license": records["license"].to_numpy(),
            "attribution": records["attribution"].where(records["attribution"] != "", "(not stated)").to_numpy(),
            "url": records["image_url"].to_numpy(),
        }
    )
    return table[[found.attribution for found in read]].reset_index(drop=True)
