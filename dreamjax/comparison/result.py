"""The table of a comparison: scores of every system under one protocol, with intervals, controls and differences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from dreamjax.comparison import data_settings, protocols, run_folder, scoring
from dreamjax.comparison.jobs import Job, Request
from dreamjax.comparison.protocols import PEOPLE_IN_WORDS
from dreamjax.metrics import bootstrap, crossed, paired, permutation, retrieval
from dreamjax.metrics.bootstrap import Interval
from dreamjax.metrics.retrieval import Ranks
from dreamjax.reports import tables
from dreamjax.reports.pages import Page, Section
from dreamjax.reports.tables import Table
from dreamjax.typing import JsonDict

TOPS = (1, 5, 10)
WAYS = (2, 10, 50, 200, 300, 2400)  # sizes of smaller galleries, of which the accuracy is exact
SHOWN_WAYS = 10
CHANCE = "chance"
CONTROLS, OVER_TIME = "controls", "over-time"  # names of jobs that are not those of a system
ROWS = {  # below the checkpoints of a system, all of them of the one that counts
    scoring.DISTRACTORS: "gallery with distractors",
    scoring.AUGMENTED: "gallery of the views that it trains on",
    scoring.CSLS: "transductive: CSLS",
    scoring.WHITENED: "transductive: whitened",
    scoring.SHUFFLED: "images shuffled (control)",
    scoring.UNTRAINED: "network untrained (control)",
}


@dataclass(frozen=True)
class Answers:
    """Every tested trial of a system at one checkpoint, all folds together: the mean over seeds, and each seed."""

    tops: Mapping[int, Float[np.ndarray, "seeds n"]]  # k → probability of being among the first k
    ways: Mapping[int, Float[np.ndarray, "seeds n"]]  # N → probability of being the first of so many
    reciprocal: Float[np.ndarray, "seeds n"]  # 1 / rank, by which checkpoints are chosen
    rank: Float[np.ndarray, "seeds n"]  # expected rank over images: from 1 / images to 1, 0.5 by chance
    person: np.ndarray
    image: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[tuple[list[Ranks], np.ndarray, np.ndarray, int]]) -> "Answers":
        """Return the answers of all folds; (ranks of each seed, person, image, size of the gallery) of each."""

        def each(value: Any) -> np.ndarray:
            return np.concatenate(
                [np.stack([value(one, size) for one in ranks]) for ranks, _, _, size in parts], axis=1
            )

        return cls(
            {k: each(lambda one, size, k=k: one.top(k)) for k in TOPS},
            {n: each(lambda one, size, n=n: one.n_way(size, n)) for n in WAYS if n < min(size for *_, size in parts)},
            each(lambda one, size: one.reciprocal()),
            each(lambda one, size: one.rank() / size),
            np.concatenate([person for _, person, _, _ in parts]),
            np.concatenate([image for _, _, image, _ in parts]),
        )

    @property
    def cells(self) -> set[tuple[int, int]]:
        """Return (person, image) of all trials."""
        return set(zip(self.person.tolist(), self.image.tolist(), strict=True))

    def score(self, values: Float[np.ndarray, "seeds n"]) -> Interval:
        """Return the mean over seeds and trials, with its interval over people and images."""
        return crossed.interval(self.table(values)).within(0, 1)

    def table(self, values: Float[np.ndarray, "seeds n"]) -> Float[np.ndarray, "people images"]:
        """Return the mean of every person for every image."""
        return crossed.table(values.mean(0), self.person, self.image)


@dataclass(frozen=True)
class Comparison:
    """The scores of a comparison, for printing, a page and storing."""

    title: str
    protocol: str
    summary: str
    people: str
    gallery: int
    images_tested: int
    trials: int
    persons: int
    seeds: int
    target: str
    systems: Mapping[str, JsonDict]
    differences: Mapping[str, JsonDict]
    notes: Sequence[str] = ()
    headline: int = 1  # k of the top-k accuracy by which systems are compared
    controls: Mapping[str, JsonDict] = field(default_factory=dict)  # `values` as of a checkpoint or None, `note`
    over_time: Mapping[str, dict[str, list[JsonDict]]] = field(default_factory=dict)  # system → kind → each window
    missing: Mapping[str, str] = field(default_factory=dict)  # job → why it is not in the table
    files: Sequence[str] = ()

    def as_json(self) -> JsonDict:
        values = asdict(self)
        return values if self.files else {k: v for k, v in values.items() if k != "files"}

    def sections(self) -> list[Section]:
        """Return the table, smaller galleries, the people and the differences."""
        return [_scores(self), *_smaller_galleries(self), *_per_person(self), *_differences(self)]

    def text(self) -> str:
        return Page(self.title, self.sections(), self.notes).text(self.files)


def collect(
    workdir: epath.PathLike,
    request: Request,
    jobs: Sequence[Job],
    missing: Mapping[str, str],
    further: Sequence[Job] = (),
) -> Comparison:
    """Return the table of the jobs that are done; `further`: those of controls, and of accuracy over time."""
    by_system: dict[str, list[Job]] = {}
    for job in jobs:
        if run_folder.result_of(workdir, job) is not None:
            by_system.setdefault(job.system, []).append(job)
    systems: dict[str, JsonDict] = {}
    ranking: dict[str, Answers] = {}
    gallery = trials = persons = images = 0
    for system, done in by_system.items():
        stored = [run_folder.result_of(workdir, job) or {} for job in done]
        loaded = [run_folder.ranks_of(workdir, job) for job in done]
        gallery = max(one["gallery"] for one in stored)
        answers = {}
        for name in [n for n in (*done[0].checkpoints, *ROWS) if n in loaded[0][0]]:
            parts = [
                (ranks[name], arrays["person"], arrays["image"], one.get("galleries", {}).get(name, one["gallery"]))
                for (ranks, arrays), one in zip(loaded, stored, strict=True)
                if name in ranks
            ]
            answers[name] = Answers.joined(parts)
        counted = protocols.counted(tuple(answers))
        first = answers[counted]
        trials, persons, images = len(first.image), len(np.unique(first.person)), len(np.unique(first.image))
        ranking[system] = first
        systems[system] = {
            "checkpoints": {name: values_of(one) for name, one in answers.items()},
            "counted": counted,
            "galleries": {k: v for one in stored for k, v in one.get("galleries", {}).items()},
            "parameters": stored[0]["parameters"],
            "validation": stored[0]["validation"],
            "closed_form": stored[0]["closed_form"],
            "p": p_value([arrays["exchanged"] for _, arrays in loaded], [arrays["image"] for _, arrays in loaded]),
            "epochs": {name: [e for one in stored for e in one["epochs"].get(name, [])] for name in answers},
            "seconds": round(sum(one["seconds"] for one in stored), 1),
            "by_person": _by_person(first, request.protocol.headline),
        }
    headline = request.protocol.headline
    return Comparison(
        title=f"Which image was seen: {images} images, {gallery}-way, protocol {request.protocol.name}",
        protocol=request.protocol.name,
        summary=request.protocol.summary,
        people=request.people,
        gallery=gallery,
        images_tested=images,
        trials=trials,
        persons=persons,
        seeds=request.seeds,
        target=str(request.target),
        systems=systems,
        differences=_paired(ranking, headline),
        notes=[
            request.protocol.summary,
            f"{PEOPLE_IN_WORDS[request.people]}; {trials} tested responses of {persons} "
            f"{'person' if persons == 1 else 'people'}; chance is {100 / max(gallery, 1):.2g} % (top-1)",
            data_settings.in_words(next(iter(by_system.values()))[0]),
            *([f"with {', '.join(map('='.join, request.settings))}"] if request.settings else []),
            "95 % intervals over people and images, of the mean over seeds; p of mean 1 / rank by permuting images",
        ],
        headline=headline,
        controls=_controls(workdir, [job for job in further if job.system == CONTROLS]),
        over_time=_over_time(workdir, further, headline),
        missing=dict(missing),
    )


def _controls(workdir: epath.PathLike, jobs: Sequence[Job]) -> dict[str, JsonDict]:
    """Return the values of each control, or why it is not possible."""
    done = [(job, stored) for job in jobs if (stored := run_folder.result_of(workdir, job)) is not None]
    loaded = [run_folder.ranks_of(workdir, job) for job, _ in done]
    notes = {name: note for _, stored in done for name, note in stored["notes"].items()}
    names = dict.fromkeys([*(name for ranks, _ in loaded for name in ranks), *notes])
    controls: dict[str, JsonDict] = {}
    for name in names:
        parts = [
            (ranks[name], arrays["person"], arrays["image"], stored["gallery"])
            for (ranks, arrays), (_, stored) in zip(loaded, done, strict=True)
            if name in ranks
        ]
        controls[name] = {"values": values_of(Answers.joined(parts)) if parts else None, "note": notes.get(name, "")}
    return controls


def timed_name(system: str, kind: str) -> str:
    """Return the name, among systems, of a system's accuracy in windows of a kind."""
    return f"{OVER_TIME}:{system}:{kind}"


def timed(job: Job) -> tuple[str, str]:
    """Return (system, kind of windows) of a job of accuracy over time; empty ones of other jobs."""
    name, _, rest = job.system.partition(":")
    system, _, kind = rest.rpartition(":")
    return (system, kind) if name == OVER_TIME else ("", "")


def _over_time(workdir: epath.PathLike, jobs: Sequence[Job], k: int) -> dict[str, dict[str, list[JsonDict]]]:
    """Return the accuracy of each window, by system and kind."""
    done: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        if timed(job)[0] and run_folder.result_of(workdir, job) is not None:
            done.setdefault(timed(job), []).append(job)
    scores: dict[str, dict[str, list[JsonDict]]] = {}
    for (system, kind), each in done.items():
        scores.setdefault(system, {})[kind] = _of_windows(workdir, each, kind, k)
    return scores


def _of_windows(workdir: epath.PathLike, jobs: Sequence[Job], kind: str, k: int) -> list[JsonDict]:
    """Return the accuracy of each window of one kind, of one system on all folds."""
    loaded = [run_folder.ranks_of(workdir, job) for job in jobs]
    person, image = (np.concatenate([arrays[name] for _, arrays in loaded]) for name in ("person", "image"))

    def score(window: int) -> Interval:
        tops = np.concatenate([ranks[kind][window].top(k) for ranks, _ in loaded])
        return crossed.interval(crossed.table(tops, person, image)).within(0, 1)

    return [
        {"from": round(float(begin), 6), "to": round(float(end), 6), "score": score(i).as_json()}
        for i, (begin, end) in enumerate(loaded[0][1][f"curve/{kind}"])
    ]


def values_of(answers: Answers) -> JsonDict:
    tops = {f"top{k}": _with_seeds(answers, values) for k, values in answers.tops.items()}
    ways = {f"{n}_way": _with_seeds(answers, values) for n, values in answers.ways.items()}
    median = bootstrap.finite(float(np.median(answers.rank)))  # Benchetrit et al. 2024, over seeds and trials
    tops["mean_reciprocal_rank"] = _with_seeds(answers, answers.reciprocal)
    return tops | ways | {"relative_rank": _with_seeds(answers, answers.rank), "relative_median_rank": median}


def p_value(sums: Sequence[Float[np.ndarray, "G G"]], images: Sequence[np.ndarray]) -> float | None:
    """Return the p value of all folds together, which permutes the same images in each; None where they differ."""
    if len({tuple(np.unique(one).tolist()) for one in images}) > 1:
        return None
    total = np.asarray(sums, np.float64).sum(0)
    return permutation.permutation_test(total, np.arange(len(total))).p


def _with_seeds(answers: Answers, values: Float[np.ndarray, "seeds n"]) -> JsonDict:
    each = [bootstrap.finite(float(one.mean())) for one in values]
    return dict(answers.score(values).as_json()) | {"seeds": each}


def _by_person(answers: Answers, k: int) -> JsonDict:
    values = answers.tops[k].mean(0)
    return {str(p): bootstrap.finite(float(values[answers.person == p].mean())) for p in np.unique(answers.person)}


def _paired(ranking: Mapping[str, Answers], k: int) -> dict[str, JsonDict]:
    """Return every pair's difference on the same trials; p values corrected for their number (Holm 1979)."""
    names, differences = list(ranking), {}
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if ranking[one].cells == ranking[other].cells:  # not where jobs of other people are done
                a, b = (ranking[name].table(ranking[name].tops[k]) for name in (one, other))
                differences[f"{one} - {other}"] = (
                    crossed.interval(a - b).within(-1, 1),
                    *crossed.standard_error(a - b),
                )
    return {one.point: one.as_json() | {"says": _says(one)} for one in paired.tests("", differences)}


def _says(test: paired.PairedTest) -> str:
    first, second = test.point.split(" - ")
    if test.resolved:
        return f"{first if test.difference.estimate > 0 else second} is better"
    return "not resolved"


# --------------------------------------------------------------------------------------------------------------- tables
def _scores(result: Comparison) -> Section:
    tops = [k for k in TOPS if k < max(result.gallery, 2)]  # among all images the right one always is
    of_ways = f"{100 / SHOWN_WAYS:.1f}" if result.gallery > SHOWN_WAYS else tables.NOTHING
    header = ["system", "checkpoint", *(f"top-{k}" for k in tops), f"{SHOWN_WAYS}-way", "median rank", "p", "encoder"]
    header.append("all parameters")
    rows = []
    for name, one in result.systems.items():
        for checkpoint, values in one["checkpoints"].items():
            what = ROWS.get(checkpoint) or protocols.in_words(checkpoint, one["validation"], one["closed_form"])
            what += f": {size:,} images" if (size := one["galleries"].get(checkpoint)) else ""
            cells = [_percent(values[f"top{k}"]) for k in tops]
            first = checkpoint == next(iter(one["checkpoints"]))
            p = tables.number(one["p"], ".2g") if checkpoint == one["counted"] else ""
            cells.append(_percent(values.get(f"{SHOWN_WAYS}_way")))
            cells += [tables.number(values["relative_median_rank"]), p]
            sizes = [f"{one['parameters'][part]:,}" if first else "" for part in ("encoder", "all")]
            rows.append([name if first else "", what, *cells, *sizes])
    for name, one in result.controls.items():
        if values := one["values"]:
            cells = [*(_percent(values[f"top{k}"]) for k in tops), _percent(values.get(f"{SHOWN_WAYS}_way"))]
            rows.append([name, "control", *cells, tables.number(values["relative_median_rank"]), "", "", ""])
    chance = [f"{100 * retrieval.chance(k, max(result.gallery, 1)):.1f}" for k in tops]
    rows.append([CHANCE, "", *chance, of_ways, "0.500", "", "", ""])
    notes = [f"! {job}: {why}" for job, why in result.missing.items()]
    for name, one in result.controls.items():
        if one["note"]:
            notes.append(f"{name}: {'' if one['values'] else 'not possible, as '}{one['note']}")
    return Section("", Table(header, rows), notes=notes)


def _percent(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return tables.NOTHING
    numbers = [value[name] for name in ("estimate", "low", "high")]
    if numbers[0] is None:
        return tables.NOTHING
    estimate, low, high = ("" if x is None else f"{100 * x:.1f}" for x in numbers)
    return f"{estimate} [{low}, {high}]" if low else estimate


def _smaller_galleries(result: Comparison) -> list[Section]:
    """Return the accuracy among N images, of the checkpoint that counts, for every N below the size of the gallery."""
    counted = {name: one["checkpoints"][one["counted"]] for name, one in result.systems.items()}
    ways = [n for n in WAYS if n < result.gallery]
    if len(ways) < 2:
        return []
    rows = [[name, *(_percent(values.get(f"{n}_way")) for n in ways)] for name, values in counted.items()]
    rows.append([CHANCE, *(f"{100 / n:.2g}" for n in ways)])
    return [
        Section(
            "Top-1 among N images (%), exact over all choices of the others", Table(["system", *map(str, ways)], rows)
        )
    ]


def _per_person(result: Comparison) -> list[Section]:
    if result.persons < 2:
        return []
    people = sorted({person for one in result.systems.values() for person in one["by_person"]}, key=int)
    rows = [[name, *(_share(one["by_person"].get(p)) for p in people)] for name, one in result.systems.items()]
    return [
        Section(
            f"By person, top-{result.headline} (%)", Table(["system", *(f"person {int(p) + 1}" for p in people)], rows)
        )
    ]


def _share(value: float | None) -> str:
    return tables.NOTHING if value is None else f"{100 * value:.1f}"


def _differences(result: Comparison) -> list[Section]:
    first = next(iter(result.systems), "")
    rows = [
        [pair, _points(one), tables.number(one["corrected"], ".3g"), one["says"]]
        for pair, one in result.differences.items()
        if pair.split(" - ")[0] == first
    ]
    header = ["difference", "points", "p, corrected", ""]
    title = f"Paired differences from {first}, in top-{result.headline} points; all pairs are in comparison.json"
    return [Section(title, Table(header, rows))] if rows else []


def _points(value: Mapping[str, Any]) -> str:
    estimate, low, high = ("" if value[n] is None else f"{100 * value[n]:+.1f}" for n in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]" if low else estimate
