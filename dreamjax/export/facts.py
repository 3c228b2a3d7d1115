"""The origin of exported weights, as stated in every export (no names, no dates, no paths), and their licence.

A permissive licence allows any use. It is refused where a corpus forbids commercial use, derivatives or
redistribution, requires share-alike or a signed agreement, or states no licence.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import dreamjax
from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.reports import image_report
from dreamjax.runs import provenance
from dreamjax.signals.recordings.identity import published_name
from dreamjax.systems import opening
from dreamjax.systems.base import Run, Signals, offered
from dreamjax.typing import JsonDict

CREATIVE_COMMONS = ("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0")
HUB_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", *CREATIVE_COMMONS)  # ids that the Hub knows
PERMISSIVE = ("mit", "apache", "bsd", "0bsd", "isc", "unlicense", "zlib", "cc0", "pddl", "ccby", "odcby", "wtfpl")
LIMITED = ("ccbync", "ccbysa", "ccbynd")  # begin like ccby and are not permissive


def model_facts(run: Run, licence: str | None = None) -> JsonDict:
    """Return the origin of a run's weights. Raise UserError for a permissive `licence` over restricted corpora."""
    source = provenance.imported(run.workdir)
    signals = offered(run.task, Signals)
    paths = signals.signal.path if signals is not None else ()
    corpora, steps = provenance.training_of(paths, run.workdir)
    check_licence(licence, corpora)
    origin, scores = source.get("origin"), image_report.saved(run.workdir, run.step)
    return {
        "version": dreamjax.__version__,
        "system": run.config.system,
        "step": run.step if not origin or run.step > 1 else None,  # None: the source of an imported run has none
        "examples": run.examples,
        "averaged": run.averaged,
        "parameters": opening.parameter_count(run.params),
        "config_sha256": hashlib.sha256(configs.to_json(run.config).encode()).hexdigest(),
        "licence": licence,
        "corpora": corpora,  # None where they are unknown
        "preprocessing": steps,
        "reference": source.get("reference") or provenance.reference_of(steps),
        "origin": origin,  # of an imported run
        "notes": source.get("notes", []),
        # scores of this step, where it has been evaluated
        "evaluation": scores and {name: x for name, x in scores.items() if name not in ("run", "title")},
    }


def hub_id(licence: str | None) -> str:
    """Return the id of a licence in the front matter of a model card on the Hub."""
    if licence is None:
        return "unknown"
    return licence.lower() if licence.lower() in HUB_LICENCES else "other"


def is_permissive(licence: str) -> bool:
    """Return whether a licence id (SPDX, or as people write it) asks for attribution at most."""
    letters = re.sub(r"[^a-z0-9]", "", licence.lower())
    return letters.startswith(PERMISSIVE) and not letters.startswith(LIMITED)


def check_licence(licence: str | None, corpora: Mapping[str, Mapping[str, Any]] | None) -> None:
    """Raise UserError for a permissive weight licence over restricted or unknown corpora (None: none are known)."""
    if licence is None or not is_permissive(published_name("--licence", licence)):
        return
    restricted = [
        f"{name} ({other})"
        for name, corpus in (corpora or {}).items()
        for other in corpus.get("licences") or ["unknown"]
        if not is_permissive(other)
    ]
    reasons = restricted if corpora else ["the training data, which are unknown"]
    if reasons:
        raise UserError(
            f"the weights cannot be licensed {licence} over {', '.join(reasons)}; "
            "leave --licence out, or name a licence that restricts no less than those"
        )
