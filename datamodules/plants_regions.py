"""The regions of the plants brief, and the countries in them (ISO 3166, two letters; pure)."""

import difflib
from collections.abc import Sequence

import numpy as np

from datamodules.errors import DataError

UNKNOWN = "UNKNOWN"
_COUNTRIES = {  # the first match counts
    "EU_SW": "ES PT FR IT AD MC SM VA GI",
    "EU_NORTH": "DE UK GB NL BE AT CH SE NO DK FI IE PL CZ",
    "EU_EAST": "RO BG HU SK UA BY RU HR SI RS BA MK AL ME XK",
    "EU_OTHER": "GR CY MT EE LV LT IS LU LI MD FO AX GG JE IM SJ",
    "AMERICAS_NORTH": "US CA MX GL BM PM BZ CR SV GT HN NI PA AG AI AW BB BL BQ BS CU CW DM DO GD GP HT JM KN KY LC MF "
    "MQ MS PR SX TC TT VC VG VI",
    "AMERICAS_SOUTH": "AR BO BR CL CO EC FK GF GS GY PE PY SR UY VE",
    "ASIA": "AE AF AM AZ BD BH BN BT CN GE HK ID IL IN IO IQ IR JO JP KG KH KP KR KW KZ LA LB LK MM MN MO MV "
    "MY NP OM PH PK PS QA SA SG SY TH TJ TL TM TR TW UZ VN YE",
    "AFRICA": "AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW KE KM LR LS LY MA MG ML MR "
    "MU MW MZ NA NE NG RE RW SC SD SH SL SN SO SS ST SZ TD TG TN TZ UG YT ZA ZM ZW",
    "OCEANIA": "AS AU CC CK CX FJ FM GU HM KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TO TV UM VU WF WS",
}
REGIONS = (*_COUNTRIES, UNKNOWN)
_OF_COUNTRY = {country: region for region, listed in reversed(_COUNTRIES.items()) for country in listed.split()}


def region_of(country: str) -> str:
    """Return the region of a country."""
    return _OF_COUNTRY.get(country.strip().upper(), UNKNOWN)


def settle_regions(regions: Sequence[str], countries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Take each record's region, or that of its country where it states none.

    Returns:
        (N,) regions; (N,) True where a region was stated that is none of ``REGIONS``: it counts as ``UNKNOWN``.
    """
    stated = [region.strip().upper() for region in regions]
    strange = np.array([bool(region) and region not in REGIONS for region in stated], dtype=bool)
    found = [
        region if region in REGIONS and region != UNKNOWN else region_of(country)
        for region, country in zip(stated, countries, strict=True)
    ]
    return np.array(found, dtype=object), strange


def check_regions(wanted: Sequence[str]) -> list[str]:
    """Return regions to keep, in capitals.

    Raises:
        DataError: One of them is no region.
    """
    asked = [region.strip().upper() for region in wanted]
    for region in asked:
        if region not in REGIONS:
            near = difflib.get_close_matches(region, REGIONS, 1)
            guess = f"did you mean {near[0]}? " if near else ""
            raise DataError(f"{region!r} is no region; {guess}known: {', '.join(REGIONS)}")
    return asked
