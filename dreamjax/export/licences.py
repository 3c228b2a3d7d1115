"""Which licence weights may carry, given the corpora that they were trained on.

A permissive licence promises that anyone may do anything; where a corpus forbids commerce, derivatives or
redistribution, asks for share-alike or a signed agreement, or says nothing, that promise is not ours to make.
"""

import re
from collections.abc import Mapping
from typing import Any

from dreamjax.errors import UserError

CREATIVE_COMMONS = ("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0")
HUB_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", *CREATIVE_COMMONS)  # ids that the Hub knows
PERMISSIVE = ("mit", "apache", "bsd", "0bsd", "isc", "unlicense", "zlib", "cc0", "pddl", "ccby", "odcby", "wtfpl")
LIMITED = ("ccbync", "ccbysa", "ccbynd")  # begin like ccby and are not permissive


def hub_id(licence: str | None) -> str:
    """Return what the front matter of a model card on the Hub calls a licence."""
    if licence is None:
        return "unknown"
    return licence.lower() if licence.lower() in HUB_LICENCES else "other"


def _letters(licence: str) -> str:
    return re.sub(r"[^a-z0-9]", "", licence.lower())


def is_permissive(licence: str) -> bool:
    """Return whether a licence id (SPDX, or as people write it) asks for attribution at most."""
    letters = _letters(licence)
    return letters.startswith(PERMISSIVE) and not letters.startswith(LIMITED)


def restricted(corpora: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return "corpus (licence)" for every corpus whose licence does not allow permissively licensed weights."""
    return [
        f"{name} ({licence})"
        for name, corpus in corpora.items()
        for licence in corpus.get("licences") or ["unknown"]
        if not is_permissive(licence)
    ]


def check(licence: str | None, corpora: Mapping[str, Mapping[str, Any]] | None) -> None:
    """Raise UserError for a permissive weight licence over restricted or unknown corpora (None: none are known)."""
    if licence is None or not is_permissive(licence):
        return
    reasons = ["the training data, which are unknown"] if not corpora else restricted(corpora)
    if reasons:
        raise UserError(
            f"the weights cannot be licensed {licence} over {', '.join(reasons)}; "
            "leave --licence out, or name a licence that restricts no less than those"
        )
