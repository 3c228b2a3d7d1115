"""Where the images in the table come from: the model, null controls that saw nothing of the trial, baselines.

Each source answers the same trials. What cannot be had is listed with the reason, never left out.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from dreamjax.console import progress
from dreamjax.evaluation import controls
from dreamjax.evaluation.controls import Answer, Asked, Material
from dreamjax.generation import batches, from_prompts
from dreamjax.generation.from_trials import Dreamer, Request
from dreamjax.objectives.contrastive import unit
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.targets import features
from dreamjax.targets import images as target_images
from dreamjax.targets.trials import ImageTrials
from dreamjax.weights import loaded

SHUFFLED, EMPTY, RANDOM = "another trial's", "empty caption", "random training image"
PROMPTED, RETRIEVED = "classifier + prompt", "nearest training image"
WHAT = {  # each source is; what is said of one answer comes behind it
    SHUFFLED: "the model's, of another trial, in which another image was seen",
    EMPTY: "the model's, of no signal at all",
    RANDOM: "any image of training",
    controls.PRIOR: "images of training, of its commonest class",
    controls.PERMUTED: "images of training, of the class said by a classifier whose labels were dealt out at random",
    controls.TIME: "images of training, of the class said by a classifier that knows but when the trial was",
    controls.BEFORE: "images of training, of the class said by a classifier of the signal before the image",
    controls.BLOCKS: "images of training, of the class said by a classifier of blocks in which nothing was shown",
    PROMPTED: "of the same diffusion model before training on signals, prompted with the class that a classifier says",
    RETRIEVED: "the image of training whose embedding is most like the one that the model reads from the trial",
}
BATCH = 256  # trials at a time
OF_ONE = 16  # images of one prompt, or of none, that are dealt out to trials

Images = UInt8[np.ndarray, "n S H W 3"]


@dataclass
class Sources:
    """Images by source, in the table's order; what is missing and why; what there is to say of each."""

    images: dict[str, Images] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    named: dict[str, Int[np.ndarray, "n"]] = field(default_factory=dict)  # class that a source answers, where it does


def others(
    dreamer: Dreamer, found: ImageTrials, own: np.ndarray, request: Request, made: Images, how: "How"
) -> tuple[Sources, Asked]:
    """All sources but the model itself. `made`: the model's images of the trials `own`."""
    rng = np.random.default_rng([request.seed, 5])
    train, side = dreamer.trials("train"), dreamer.side(request)
    known = np.unique(train.image)
    shown = target_images.load_all([train.images[i].path for i in known], side)
    count = (len(own), request.samples)
    out = Sources()
    if len(np.unique(found.image[own])) > 1:
        out.images[SHUFFLED] = made[elsewhere(found.image[own], rng)]
    else:
        out.missing[SHUFFLED] = "in all of these trials the same image was seen"
    if dreamer.task.guided:
        out.images[EMPTY] = _of_nothing(dreamer, request)[rng.integers(OF_ONE, size=count)]
    else:
        out.missing[EMPTY] = "the model has no unconditional branch"
    out.images[RANDOM] = shown[rng.integers(len(known), size=count)]

    asked = Asked.of(dreamer.task.signal, train, dreamer.trials("val"), found, own, request.seed)
    class_of = dict(zip(train.image.tolist(), asked.classes(train).tolist(), strict=True))
    members = [np.flatnonzero([class_of[int(i)] == k for i in known]) for k in range(len(asked.names))]
    for number, answer in enumerate(controls.answers(asked, how.material)):
        rng = np.random.default_rng([request.seed, 12, number])  # no source depends on which others there are
        if answer.classes is None:
            out.missing[PROMPTED if answer.name == controls.CLASSIFIER else answer.name] = answer.why
        elif answer.name == controls.CLASSIFIER:
            _prompted(out, dreamer, asked, answer, request, how, rng)
        else:
            chosen = [rng.choice(members[k], request.samples) for k in answer.classes]
            out.images[answer.name], out.named[answer.name] = shown[np.stack(chosen)], answer.classes
            out.notes[answer.name] = answer.why
    if dreamer.task.embedding_dim:
        nearest = _nearest(dreamer, found, own, train, known)
        out.images[RETRIEVED] = shown[nearest][:, None]
        if len(asked.names) > 1:
            out.named[RETRIEVED] = np.array([class_of[int(known[i])] for i in nearest])
    else:
        out.missing[RETRIEVED] = "the run was not aligned with embeddings"
    out.notes = {name: "; ".join(filter(None, (WHAT[name], out.notes.get(name)))) for name in out.images}
    return out, asked


@dataclass(frozen=True)
class How:
    """What sources are made from beside the run."""

    material: Material = field(default_factory=Material)
    prompts: tuple[str, ...] = ("a {label}",)  # of classifier + prompt


def elsewhere(image_n: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each trial another one, at which another image was seen where there is one; each is used once."""
    order = rng.permutation(len(image_n))
    for _ in range(100):  # swap what met its own image
        bad = np.flatnonzero(image_n[order] == image_n)
        if not len(bad):
            break
        other = rng.integers(len(order), size=len(bad))
        for i, j in zip(bad, other, strict=True):
            order[i], order[j] = order[j], order[i]
    return order


# -------------------------------------------------------------------------------------------------------- by the model
def _of_nothing(dreamer: Dreamer, request: Request) -> UInt8[np.ndarray, "k H W 3"]:
    """What the model's own U-Net paints from the empty caption."""
    nothing = {name: np.asarray(value) for name, value in dreamer.unconditional().items()}

    def rows(index: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.repeat(value, len(index), axis=0) for name, value in nothing.items()}

    how = dataclasses.replace(request, guidance=1.0)
    return np.stack(list(batches.paint(dreamer.model, how, np.arange(OF_ONE), rows)))


def _prompted(
    out: Sources, dreamer: Dreamer, asked: Asked, answer: Answer, request: Request, how: How, rng: np.random.Generator
) -> None:
    """Stable Diffusion as it was before, prompted with the class that the classifier says."""
    assert answer.classes is not None
    model = dreamer.model
    if model.text is None:
        out.missing[PROMPTED] = "the model has no text encoder"
        return
    task, said = dreamer.task, sorted(set(answer.classes.tolist()))
    unet = loaded.load_network(
        task.parts, "unet", mesh=model.mesh, dtype=model.unet.arguments["dtype"], attention="auto"
    )
    words = [how.prompts[i % len(how.prompts)].format(label=asked.names[k]) for k in said for i in range(OF_ONE)]
    same = {f.name: getattr(request, f.name) for f in dataclasses.fields(batches.Sampling)}
    plain = dataclasses.replace(model, unet=unet)
    with progress("prompt", len(words)) as bar:
        made = np.stack(list(from_prompts.batches(plain, from_prompts.Request(prompts=tuple(words), **same), bar)))
    made = made.reshape(len(said), OF_ONE, *made.shape[1:])
    place = np.searchsorted(said, answer.classes)
    drawn = rng.integers(OF_ONE, size=(len(answer.classes), request.samples))
    out.images[PROMPTED], out.named[PROMPTED] = made[place[:, None], drawn], answer.classes
    out.notes[PROMPTED] = f"{answer.why}; prompted with {' and '.join(repr(text) for text in how.prompts)}"


def _nearest(
    dreamer: Dreamer, found: ImageTrials, own: np.ndarray, train: ImageTrials, known: np.ndarray
) -> Int[np.ndarray, "n"]:
    """Among the training images `known`, the one whose embedding is most like the one read from each trial."""
    target, mesh = dreamer.task.target, meshes.make(MeshConfig())
    bank = features.embeddings(target.bank_root, target.embedding, train.images, mesh, target.encode_batch)
    predicted = np.concatenate(list(embedded(dreamer, found, own)))
    return np.asarray(unit(predicted) @ unit(np.asarray(bank[known])).T).argmax(1)


def embedded(
    dreamer: Dreamer, found: ImageTrials, own: Sequence[int] | np.ndarray
) -> Iterator[Float[np.ndarray, "b P"]]:
    """The embedding that the model reads from each trial, a batch at a time."""
    for first in range(0, len(own), BATCH):
        trial: Any = np.asarray(own[first : first + BATCH])
        yield dreamer.read(found.read(trial))["embedding"]
