"""Score a system on held-out examples: does it retrieve the right target, or predict it?

The controls are the same network untrained and targets shuffled across examples; of predictions also the mean target.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from dreamjax.console import progress
from dreamjax.errors import UserError
from dreamjax.evaluation import score_table
from dreamjax.evaluation.score_table import Column, ExampleSettings, ScoreTable
from dreamjax.metrics import bootstrap, regression, retrieval
from dreamjax.metrics.retrieval import Ranks
from dreamjax.reports import nearest
from dreamjax.reports.image_report import MODEL, MOST
from dreamjax.reports.nearest import NearestImages
from dreamjax.reports.pages import Section
from dreamjax.signals.recordings import identity
from dreamjax.systems.base import Embeds, Predicts, Retrieves, Run, System, capability, name_of
from dreamjax.targets import banks
from dreamjax.targets.banks import BankConfig
from dreamjax.training.task import Batch, PyTree

MOST_GROUPS = 1000  # of examples without subjects, which intervals resample
SHUFFLED, UNTRAINED, MEAN = "shuffled targets", "untrained network", "mean of the targets"

Function = Callable[[PyTree, Batch], jax.Array]  # (parameters, batch) → rows


def _open(workdir: str, settings: ExampleSettings) -> Run:
    score_table.refuse_training_split(settings.split)
    return score_table.open_trained(workdir, settings.step, settings.best)


def untrained(task: System, seed: int) -> PyTree:
    """Return parameters of the same network before training."""
    key = jax.random.fold_in(jax.random.key(task.config.seed), seed)
    return jax.jit(lambda key: task.init(key).params)(key)


def embedder(task: Embeds, params: PyTree) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return (signal [B, C, T], valid [B, T]) → one vector a window [B, D]; compiled once for a system."""
    compiled = _pooled(task)  # type: ignore[arg-type]  # systems are frozen dataclasses, so hashable
    return lambda signal, valid: np.asarray(compiled(params, signal, valid.astype(np.float32)))


@functools.lru_cache(maxsize=4)
def _pooled(task: Embeds) -> Callable[..., jax.Array]:
    return jax.jit(lambda params, signal, valid: task.embed(params, signal, valid).pooled)


# ------------------------------------------------------------------------------------------------------------ examples
@dataclass(frozen=True)
class ScoredExamples:
    """Rows of every held-out example: the output of each function, the target, the cluster it belongs to."""

    outputs: Mapping[str, np.ndarray]
    target: np.ndarray
    cluster: np.ndarray
    clusters: str  # what clusters are


def collect(task: System, split: str, functions: Mapping[str, tuple[Function, PyTree]]) -> ScoredExamples:
    """Run functions, with their parameters, over the examples of a split. Raise UserError for ones without a target."""
    spec = task.data(split)
    compiled = {name: jax.jit(function) for name, (function, _) in functions.items()}
    rows: dict[str, list[np.ndarray]] = {}
    with progress("evaluate", getattr(spec.stream, "__len__", lambda: 0)()) as bar:
        for batch in spec.stream.batches(start=0, batch_size=spec.batch_size):
            if "target" not in batch:
                raise UserError(f"the examples of split {split} have no target, so nothing can be scored")
            real = np.asarray(batch["weight"]) > 0  # not the padding of the last batch
            numbers = {name: x for name, x in batch.items() if np.asarray(x).dtype.kind in "fiub"}
            values = {name: compiled[name](params, numbers) for name, (_, params) in functions.items()}
            values |= {f"batch/{name}": batch[name] for name in ("target", "subject") if name in batch}
            for name, value in values.items():
                rows.setdefault(name, []).append(np.asarray(value)[real])
            bar.advance(int(real.sum()))
    joined = {name: np.concatenate(parts) for name, parts in rows.items()}
    if not len(joined.get("batch/target", ())):
        raise UserError(f"split {split} has no examples to score")
    target, subject = joined.pop("batch/target"), joined.pop("batch/subject", None)
    for name, value in {"the target": target, **{f"the output of the {name}": x for name, x in joined.items()}}.items():
        if broken := int((~np.isfinite(value.reshape(len(value), -1)).all(axis=1)).sum()):
            raise UserError(f"{name} is not finite in {broken} of {len(value)} examples, so nothing can be scored")
    if subject is not None and len(np.unique(subject)) > 1:
        names = getattr(spec.stream, "names", {}).get("subject", ())
        return ScoredExamples(joined, target, subject, identity.groups(names[i] for i in np.unique(subject) if names))
    count, of_one = len(target), "" if subject is None else " of one subject"
    if target.ndim == 1 and target.dtype.kind in "iu" and 1 < len(np.unique(target)) < count:
        return ScoredExamples(joined, target, target, f"targets{of_one}")  # whose examples are not independent
    groups = np.arange(count) * min(count, MOST_GROUPS) // count
    names = "examples" if count <= MOST_GROUPS else "groups of examples"
    return ScoredExamples(joined, target, groups, f"{names}{of_one}")


# ----------------------------------------------------------------------------------------------------------- retrieval
@dataclass(frozen=True)
class RetrievalSettings(ExampleSettings):
    """The settings of a score of retrieval."""

    nearest: int = 5  # targets that are shown for each example

    def __post_init__(self) -> None:
        if self.nearest < 1:
            raise UserError(f"--nearest is {self.nearest}, but it must be at least 1")


def score_retrieval(workdir: str, settings: RetrievalSettings) -> ScoreTable:
    """Score top-1, top-5 and mean rank in closed form; write the result, and the nearest targets, into `out`."""
    run = _open(workdir, settings)
    task, fresh = capability(run.task, Retrieves, "score retrieval"), untrained(run.task, settings.seed)
    queries = {MODEL: (task.query, run.params), UNTRAINED: (task.query, fresh)}
    examples = collect(run.task, settings.split, queries)
    bank, random_bank = (np.asarray(task.bank(params, settings.split).vectors) for params in (run.params, fresh))
    target = bank_rows(examples.target, len(bank))
    if len(bank) < 2:
        raise UserError("the bank holds one target, which every query retrieves; a score needs two or more")
    shuffled = np.random.default_rng([settings.seed, 14]).permutation(target)
    ranks = {
        MODEL: retrieval.ranks(examples.outputs[MODEL], bank, target),
        SHUFFLED: retrieval.ranks(examples.outputs[MODEL], bank, shuffled),
        UNTRAINED: retrieval.ranks(examples.outputs[UNTRAINED], random_bank, target),
    }
    note, columns = "ties count as the mean over all orders of the equal ones", rank_columns(ranks, len(bank))
    near = nearest_targets(examples.outputs[MODEL], bank, settings.nearest)
    names, rank = task.bank(run.params, settings.split).names, ranks[MODEL].rank()
    listed = [
        {"seen": str(names[seen]), "rank": float(at), "nearest": [str(names[j]) for j in row]}
        for seen, at, row in zip(target, rank, near, strict=True)
    ]
    details = {"targets": len(bank), "nearest": listed}
    shown = _nearest_section(run.task, listed, settings.seed)
    return _table("retrieval", "queries", run, settings, examples, columns, note, details, [shown])


def nearest_targets(query: np.ndarray, bank: np.ndarray, count: int) -> np.ndarray:
    """Return the rows of the bank that are most similar to each query, the most similar first."""
    similarity = retrieval.similarities(query, bank, centred=False)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :count]


def _nearest_section(task: System, listed: Sequence[Mapping[str, Any]], seed: int) -> Section:
    """Return the nearest targets of all examples, or of `image_report.MOST` that are drawn at random."""
    count = len(listed)
    some = count > MOST
    drawn = np.sort(np.random.default_rng([seed, 10]).choice(count, MOST, replace=False)) if some else range(count)
    trials = [NearestImages(f"example {i + 1}", **listed[i]) for i in drawn]
    which = f"{MOST} of {count} examples, drawn at random" if some else f"all {count} examples"
    source = getattr(task.config, "target", None)  # of systems whose targets are images
    groups = {"": trials}
    png_of = banks.png_reader(source if isinstance(source, BankConfig) else BankConfig(), nearest.names(groups))
    return nearest.section("Nearest targets", groups, png_of, [f"{which}; the JSON file has all of them"])


def rank_columns(ranks: Mapping[str, Ranks], targets: int) -> list[Column]:
    """Return top-1, top-5 and the rank of every source."""
    tops = [
        Column(f"top-{k}", {name: of.top(k) for name, of in ranks.items()}, retrieval.chance(k, targets))
        for k in (1, 5)
        if k < targets  # among all of them the right one always is
    ]
    return [*tops, Column("rank", {name: of.rank() for name, of in ranks.items()}, (targets + 1) / 2, "lower")]


def bank_rows(target: np.ndarray, targets: int) -> np.ndarray:
    """Return the row of each target in the bank. Raise UserError for one that it does not have."""
    rows = target.reshape(len(target), -1)
    if rows.shape[1] != 1 or target.dtype.kind not in "iu":
        raise UserError("the batch's target is not a number; of a system that retrieves it is a row of the bank")
    if rows.min() < 0 or rows.max() >= targets:
        raise UserError(f"target {rows.max()} is not a row of the bank, which has {targets}")
    return rows[:, 0]


# ---------------------------------------------------------------------------------------------------------- prediction
def score_prediction(workdir: str, settings: ExampleSettings) -> ScoreTable:
    """Score the correlation and R² of every dimension; write the result into `out`."""
    run = _open(workdir, settings)
    task, fresh = capability(run.task, Predicts, "score predictions"), untrained(run.task, settings.seed)
    predictions = {MODEL: (task.predict, run.params), UNTRAINED: (task.predict, fresh)}
    examples = collect(run.task, settings.split, predictions)
    target = examples.target.reshape(len(examples.target), -1)
    model, random_model = (examples.outputs[name].reshape(len(target), -1) for name in (MODEL, UNTRAINED))
    if model.shape != target.shape:
        raise UserError(f"predictions have {model.shape[1]} dimensions, but targets {target.shape[1]}")
    shuffled = target[np.random.default_rng([settings.seed, 15]).permutation(len(target))]
    fits = {
        MODEL: regression.fit(model, target),
        SHUFFLED: regression.fit(model, shuffled),
        UNTRAINED: regression.fit(random_model, target),
        MEAN: regression.fit(np.broadcast_to(target.mean(0), target.shape), target),
    }
    columns = [
        Column("correlation", {name: fit.correlation_n for name, fit in fits.items()}, 0.0),
        Column("R²", {name: fit.r2_n for name, fit in fits.items()}, 0.0),
    ]
    each = {name: [bootstrap.finite(x) for x in getattr(fits[MODEL], name)] for name in ("correlation", "r2")}
    details = {"dimensions": target.shape[1], "by_dimension": each}
    note = "scores are means over the dimensions that vary"
    return _table("prediction", "predictions", run, settings, examples, columns, note, details)


def _table(
    name: str,
    outputs: str,
    run: Run,
    settings: ExampleSettings,
    examples: ScoredExamples,
    columns: Sequence[Column],
    note: str,
    details: Mapping[str, object],
    sections: Sequence[Section] = (),
) -> ScoreTable:
    """Return the scores, written into `out`; of `details` the title has the counts."""
    what = {
        SHUFFLED: f"the {outputs} of the model, with targets shuffled across examples",
        UNTRAINED: f"the {outputs} of the same network with random parameters",
        MEAN: "the mean of the scored targets for every example",
    }
    unknown = [identity.MAY_SHARE] if "recordings" in examples.clusters else []
    counts = [f"{value} {key}" for key, value in details.items() if isinstance(value, int)]
    counts.insert(0, f"{len(examples.target)} examples")
    result = ScoreTable(
        title=f"{name.capitalize()}: {run.workdir}, step {run.step}, split {settings.split}: {', '.join(counts)}",
        run=run.workdir,
        system=name_of(run.task),
        step=run.step,
        split=settings.split,
        seed=settings.seed,
        scores=[column.as_json([examples.cluster]) for column in columns],
        sources=list(columns[0].values),
        of_sources={source: what[source] for source in columns[0].values if source != MODEL},
        notes=[
            f"95 % intervals over {len(np.unique(examples.cluster))} {examples.clusters} in brackets",
            note,
            *unknown,
        ],
        details={"label": "answers of", "count": len(examples.target), "clusters": examples.clusters, **details},
    )
    return dataclasses.replace(result, files=result.write(settings.folder(run.workdir), name, sections))
