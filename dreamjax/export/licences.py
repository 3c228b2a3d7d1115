"""Which licence weights may carry, given the corpora that they were trained on.

A permissive licence promises that anyone may do anything; where a corpus forbids commerce, derivatives or
redistribution, asks for share-alike or a signed agreement, or says nothing, that promise is not ours to make.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dreamjax.errors import UserError

PERMISSIVE = ("mit", "apache", "bsd", "0bsd", "isc", "unlicense", "zlib", "cc0", "pddl", "ccby", "odcby", "wtfpl")
LIMITED = ("ccbync", "ccbysa", "ccbynd")  # begin like ccby and are not permissive


def _letters(licence: str) -> str:
    return re.sub(r"[^a-z0-9]", "", licence.lower())


def is_permissive(licence: str) -> bool:
    """Whether a licence id (SPDX, or as people write it) allows everything that attribution pays for."""
    letters = _letters(licence)
    return letters.startswith(PERMISSIVE) and not letters.startswith(LIMITED)


def restricted(corpora: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """ "corpus (licence)" for every corpus whose licence does not allow permissively licensed weights."""
    found = []
    for name, corpus in corpora.items():
        licences: Sequence[str] = corpus.get("licences") or ["unknown"]
        found += [f"{name} ({licence})" for licence in licences if not is_permissive(licence)]
    return found


def check(licence: str | None, corpora: Mapping[str, Mapping[str, Any]] | None) -> None:
    """Raises UserError for a permissive weight licence over restricted or unknown corpora (None: none are known)."""
    if licence is None or not is_permissive(licence):
        return
    reasons = ["the training data, which are unknown"] if not corpora else restricted(corpora)
    if reasons:
        raise UserError(
            f"the weights cannot be licensed {licence} over {', '.join(reasons)}; "
            "leave --licence out, or name a licence that restricts no less than those"
        )
