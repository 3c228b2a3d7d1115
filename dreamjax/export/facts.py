"""Where exported weights come from, as every export says it: no names, no dates, no paths."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import dreamjax
from dreamjax import config as configs
from dreamjax.export import licences
from dreamjax.reports import image_report
from dreamjax.runs import training_data
from dreamjax.systems import opening
from dreamjax.systems.base import Run, Signals, name_of, offered


@dataclass(frozen=True)
class ModelFacts:
    """The origin of a run's weights. `corpora`: None where they are unknown."""

    version: str  # of dreamjax
    system: str
    step: int | None  # None: the source of an imported run does not say it
    examples: int
    averaged: bool
    parameters: int
    config_sha256: str
    licence: str | None
    corpora: Mapping[str, Mapping[str, object]] | None
    preprocessing: Sequence[Mapping[str, object]]
    reference: str
    origin: Mapping[str, str] | None  # of an imported run
    notes: Sequence[str]
    evaluation: Mapping[str, object] | None  # scores of this step, where it has been evaluated

    @classmethod
    def of(cls, run: Run, licence: str | None = None) -> "ModelFacts":
        """Return the facts of a run. Raise UserError for a permissive `licence` over restricted corpora."""
        source = training_data.imported(run.workdir)
        signals = offered(run.task, Signals)
        paths = signals.signal.path if signals is not None else ()
        steps, corpora = training_data.steps_of(paths, run.workdir), training_data.corpora_of(paths, run.workdir)
        licences.check(licence, corpora)
        origin, scores = source.get("origin"), image_report.saved(run.workdir, run.step)
        return cls(
            version=dreamjax.__version__,
            system=name_of(run.task),
            step=run.step if not origin or run.step > 1 else None,
            examples=run.examples,
            averaged=run.averaged,
            parameters=opening.parameter_count(run.params),
            config_sha256=hashlib.sha256(configs.to_json(run.config).encode()).hexdigest(),
            licence=licence,
            corpora=corpora,
            preprocessing=steps,
            reference=source.get("reference") or training_data.reference_of(steps),
            origin=origin,
            notes=source.get("notes", []),
            evaluation=scores and {name: x for name, x in scores.items() if name not in ("run", "title")},
        )

    def as_json(self) -> dict[str, object]:
        return asdict(self)
