"""A trained DreamDiffusion on trials whose pictures it never saw: scores, controls and baselines in one table.

The sources of pictures, all for the same trials:

    model                      what was made from the trial
    another trial's            the same pictures dealt out to other trials: what is left when the signal says nothing
    random training picture    a real picture, of the right kind, that has nothing to do with the trial
    nearest training picture   retrieval: the one whose embedding is most like the one read from the trial
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from dreamjax.console import progress
from dreamjax.errors import UserError
from dreamjax.evaluation import decoding, report
from dreamjax.evaluation.decoding import Judge, Trials
from dreamjax.objectives.contrastive import unit
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.storage import atomic
from dreamjax.systems import eeg_to_image, painting, runs
from dreamjax.systems.eeg_to_image import Dreamer, Request
from dreamjax.targets import features, pictures, trials
from dreamjax.targets.features import EmbeddingConfig, VisionModel

MODEL, SHUFFLED, RANDOM = "model", "another trial's", "random training picture"
RETRIEVED = "nearest training picture"
SHOWN = {"train": "that it was trained on", "val": "held out while it trained", "test": "that training never showed"}
BATCH = 256  # pictures, or trials, at a time


@dataclass(frozen=True)
class Judging:
    """By whom the pictures are judged: folders of vision models."""

    judges: tuple[str, ...] = ()  # two-way identification by their embeddings, beside the one that was aligned with
    classifier: str = ""  # ViTForImageClassification: N-way accuracy
    ways: int | None = None


def evaluate(
    workdir: str,
    request: Request,
    judging: Judging,
    out: str | None = None,
    *,
    step: int | None = None,
    best: bool = False,
) -> dict[str, Any]:
    """Scores of a run on the trials of a split; pictures.json in `out` (default: RUN/evaluation)."""
    run = runs.open_run(workdir, step, best)
    if run.step == 0:
        raise UserError(f"{workdir} is untrained (step 0): no score is shown for it; train it first")
    dreamer = Dreamer.open(run)
    found = dreamer.trials(request.split, request.input)
    own = eeg_to_image.chosen(found, request)
    side = dreamer.side(request)
    asked = _seen(found, own, side)
    with progress("generate", len(own) * request.samples) as bar:
        made = np.stack(list(dreamer.pictures(found, own, request, bar)))
    made = made.reshape(len(own), request.samples, *made.shape[1:])
    sources = {MODEL: made} | _others(dreamer, found, own, request, made, side)
    judges, notes = _judges(dreamer, judging)
    notes += _pretrained(run.config, found, own)
    scores = decoding.scores_json(decoding.columns(asked, sources, judges, judging.ways), asked, MODEL)
    people, seen = len(set(asked.person.tolist())), len(asked.true)
    result = {
        "run": workdir,
        "system": run.config.system,
        "step": run.step,
        "split": request.split,
        "trials": len(own),
        "title": (
            f"{workdir}, step {run.step}: {len(own)} trials of split {request.split}, in which {people} people saw "
            f"{seen} pictures {SHOWN[request.split]}; {request.samples} made of each"
        ),
        "notes": notes,
        "scores": scores,
        "sources": list(sources),
        "made": painting.described(dreamer.model, request),
    }
    folder = epath.Path(out or f"{workdir}/evaluation")
    atomic.write_text(folder / "pictures.json", json.dumps(result, indent=1))
    return result


def text(result: dict[str, Any]) -> str:
    """A result for a terminal."""
    lines = [result["title"], *(f"  {note}" for note in result["notes"]), ""]
    header = ["", *result["sources"], "chance"]
    rows = [
        [
            entry["metric"],
            *(report.cell(entry["scores"].get(source)) for source in result["sources"]),
            "–" if entry["chance"] is None else f"{entry['chance']:.3f}",
        ]
        for entry in result["scores"]
    ]
    lines.append(report.table(header, rows))
    differences = [
        [entry["metric"], source, report.cell(d, signed=True), d["says"]]
        for entry in result["scores"]
        for source, d in entry["model_minus"].items()
        if source in (SHUFFLED, RETRIEVED)
    ]
    lines += [
        "",
        "Model minus the control and the baseline, paired",
        report.table(["", "than", "difference", ""], differences),
    ]
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------- sources
def _seen(found: Any, own: np.ndarray, side: int) -> Trials:
    """The trials as `decoding` has them."""
    judged, place = np.unique(found.picture[own], return_inverse=True)
    labels = {int(found.picture[trial]): found.label[trial] for trial in own}
    names, people = sorted(set(labels.values())), sorted({found.person[trial] for trial in own})
    return Trials(
        true=pictures.load_all([found.pictures[i].path for i in judged], side),
        group=np.array([names.index(labels[int(i)]) for i in judged]),
        own=place,
        person=np.array([people.index(found.person[trial]) for trial in own]),
    )


def _others(
    dreamer: Dreamer, found: Any, own: np.ndarray, request: Request, made: np.ndarray, side: int
) -> dict[str, np.ndarray]:
    """The controls and the baseline."""
    rng = np.random.default_rng([request.seed, 5])
    train = dreamer.trials("train")
    known = np.unique(train.picture)
    shown = pictures.load_all([train.pictures[i].path for i in known], side)
    drawn = rng.integers(len(known), size=(len(own), request.samples))
    out = {SHUFFLED: made[_elsewhere(found.picture[own], rng)], RANDOM: shown[drawn]}
    target = dreamer.task.config.target
    if dreamer.task.embedding_dim:
        mesh = meshes.make(MeshConfig())
        bank = features.embeddings(target.bank_root, target.embedding, train.pictures, mesh, target.encode_batch)
        predicted = np.concatenate(list(_embedded(dreamer, found, own)))
        nearest = np.asarray(unit(predicted) @ unit(np.asarray(bank[known])).T).argmax(1)
        out[RETRIEVED] = shown[nearest][:, None]
    return out


def _elsewhere(picture_n: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each trial another one, at which another picture was seen where there is one; each is used once."""
    order = rng.permutation(len(picture_n))
    for _ in range(100):  # swap what met its own picture
        bad = np.flatnonzero(picture_n[order] == picture_n)
        if not len(bad):
            break
        other = rng.integers(len(order), size=len(bad))
        for i, j in zip(bad, other, strict=True):
            order[i], order[j] = order[j], order[i]
    return order


def _embedded(dreamer: Dreamer, found: Any, own: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(own), BATCH):
        trial = own[first : first + BATCH]
        yield dreamer.read(found.windows.of(found.record[trial], trial.astype(np.uint64)))["embedding"]


def _pretrained(config: Any, found: Any, own: np.ndarray) -> list[str]:
    """What the encoder had seen of these trials before; their signals, never their pictures."""
    own_start = not config.encoder.path or config.encoder.start == "random"
    if own_start or config.target.people == "apart":
        return []
    paths = [os.path.abspath(path) for path in runs.config_of(config.encoder.path).data.path]
    chosen = dataclasses.replace(found, record=found.record[own])
    count = trials.pretrained_on(chosen, paths)
    return [f"the encoder was pretrained on the signals of {count} of the {len(own)} trials, without their pictures"]


# -------------------------------------------------------------------------------------------------------------- judges
def _judges(dreamer: Dreamer, judging: Judging) -> tuple[list[Judge], list[str]]:
    """Who judges, and what is missing and why."""
    mesh, notes, found = meshes.make(MeshConfig()), [], []
    aligned = dreamer.task.config.target.embedding
    if dreamer.task.embedding_dim:
        name = epath.Path(aligned.path).name
        found.append(Judge(f"{name} (aligned with)", _features(VisionModel.open(aligned.path, mesh), aligned)))
        notes.append(f"{name} is what training aligned trials with: as a judge it is not independent")
    for path in judging.judges:
        model = VisionModel.open(path, mesh)
        config = EmbeddingConfig(path, "projected" if model.part.arguments.get("projection") else "pooled")
        found.append(Judge(epath.Path(path).name, _features(model, config)))
    if judging.classifier:
        model = VisionModel.open(judging.classifier, mesh)
        if not model.part.arguments.get("classes"):
            raise UserError(f"{judging.classifier} is no classifier; name a ViTForImageClassification")
        told = "accuracy not told" if model.accuracy is None else f"right for {model.accuracy:.0%} of held-out pictures"
        name = f"{epath.Path(judging.classifier).name} ({told})"
        found.append(Judge(name, probabilities=_probabilities(model)))
    else:
        notes.append("no N-way accuracy: it takes a trained classifier (--classifier FOLDER)")
    return found, notes


def _features(model: VisionModel, config: EmbeddingConfig) -> Any:
    return _batched(model, lambda params, pixels: model.embed(params, pixels, config))


def _probabilities(model: VisionModel) -> Any:
    return _batched(model, lambda params, pixels: jax.nn.softmax(model.part.bound(params).logits(pixels)))


def _batched(model: VisionModel, function: Any) -> Any:
    """uint8 pictures [k, H, W, 3] → what `function(params, pixels)` makes of them, as NumPy."""
    program = jax.jit(function)

    def view(shown: np.ndarray) -> np.ndarray:
        rows = (model.prepare(list(shown[i : i + BATCH])) for i in range(0, len(shown), BATCH))
        return np.concatenate([np.asarray(program(model.part.params, pixels)) for pixels in rows])

    return view
