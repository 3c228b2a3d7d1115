"""Apply functions of a system to every held-out example, with the targets and the subjects of the examples."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from dreamjax.console import progress
from dreamjax.errors import UserError
from dreamjax.evaluation.score_table import Column, ScoreTable
from dreamjax.systems import opening
from dreamjax.systems.base import Run, System, name_of
from dreamjax.training.task import Batch, PyTree

MOST_GROUPS = 1000  # of examples without subjects, which intervals resample

Function = Callable[[PyTree, Batch], jax.Array]  # (parameters, batch) → rows


@dataclass(frozen=True)
class ExampleSettings:
    """Which held-out examples of which step are scored."""

    split: str = "test"
    step: int | None = None
    best: bool = False
    seed: int = 0  # of controls
    out: str | None = None  # None: RUN/evaluation

    def open(self, workdir: str) -> Run:
        """Open the run. Raise UserError for an untrained one, and for the split that it was trained on."""
        if self.split == "train":
            raise UserError("split train is what the run learned from; score it on --split test (or val)")
        run = opening.open_run(workdir, self.step, self.best)
        if run.step == 0:
            raise UserError(f"{workdir} is untrained (step 0): no score is shown for it; train it first")
        return run


@dataclass(frozen=True)
class ScoredExamples:
    """Rows of every held-out example: the output of each function, the target, the cluster it belongs to."""

    outputs: Mapping[str, np.ndarray]
    target: np.ndarray
    cluster: np.ndarray
    clusters: str  # what clusters are


def collect(task: System, split: str, functions: Mapping[str, tuple[Function, PyTree]]) -> ScoredExamples:
    """Run every function, with its parameters, over the examples of a split, each once.

    Raise UserError where the examples have no target.
    """
    spec = task.data(split)
    compiled = {name: jax.jit(function) for name, (function, _) in functions.items()}
    rows: dict[str, list[np.ndarray]] = {}
    with progress("evaluate", getattr(spec.stream, "__len__", lambda: 0)()) as bar:
        for batch in spec.stream.batches(start=0, batch_size=spec.batch_size):
            if "target" not in batch:
                raise UserError(f"the examples of split {split} have no target, so nothing can be scored")
            real = np.asarray(batch["weight"]) > 0  # not the padding of the last batch
            numbers = {name: x for name, x in batch.items() if np.asarray(x).dtype.kind in "fiub"}
            outputs = {name: compiled[name](params, numbers) for name, (_, params) in functions.items()}
            for name, value in (
                outputs | {f"batch/{x}": batch[x] for x in ("target", "subject") if x in batch}
            ).items():
                rows.setdefault(name, []).append(np.asarray(value)[real])
            bar.advance(int(real.sum()))
    joined = {name: np.concatenate(parts) for name, parts in rows.items()}
    if not len(joined.get("batch/target", ())):
        raise UserError(f"split {split} has no examples to score")
    target, subject = joined.pop("batch/target"), joined.pop("batch/subject", None)
    if subject is not None and len(np.unique(subject)) > 1:
        return ScoredExamples(joined, target, subject, "subjects")
    count = len(target)
    groups = np.arange(count) * min(count, MOST_GROUPS) // count
    return ScoredExamples(joined, target, groups, "examples" if count <= MOST_GROUPS else "groups of examples")


def table(
    name: str,
    run: Run,
    settings: ExampleSettings,
    examples: ScoredExamples,
    columns: Sequence[Column],
    what: Mapping[str, str],
    note: str,
    details: Mapping[str, object],
) -> ScoreTable:
    """Return the scores of examples, written into `out` as NAME-SPLIT.json and .html.

    `what`: what each source but the model is. `details`: further numbers, of which the title names the counts.
    """
    count = len(examples.target)
    counts = [f"{value} {key}" for key, value in details.items() if isinstance(value, int)]
    result = ScoreTable(
        title=(
            f"{name.capitalize()}: {run.workdir}, step {run.step}, split {settings.split}: "
            f"{', '.join([f'{count} examples', *counts])}"
        ),
        run=run.workdir,
        system=name_of(run.task),
        step=run.step,
        split=settings.split,
        seed=settings.seed,
        scores=[column.as_json([examples.cluster]) for column in columns],
        sources=list(columns[0].values),
        of_sources=what,
        notes=[f"95 % intervals over {len(np.unique(examples.cluster))} {examples.clusters} in brackets", note],
        details={"label": "answers of", "count": count, "clusters": examples.clusters, **details},
    )
    return dataclasses.replace(result, files=result.write(settings.out or f"{run.workdir}/evaluation", name))
