"""The sources of images in the table: the model, null controls that do not see the trial, and baselines.

Each source answers the same trials. An impossible source is listed with the reason, never left out.
"""

import dataclasses
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from dreamjax.console import progress
from dreamjax.evaluation import controls
from dreamjax.evaluation.controls import Answer, ClassTask, ControlData
from dreamjax.generation import batches, from_prompts
from dreamjax.generation.from_prompts import TextRequest
from dreamjax.generation.from_trials import TrialGenerator, TrialRequest
from dreamjax.objectives.contrastive import unit
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import sharding
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.runs.latent_diffusion import LatentDiffusion
from dreamjax.targets import features
from dreamjax.targets import images as target_images
from dreamjax.targets.trials import ImageTrials
from dreamjax.training.task import PyTree
from dreamjax.weights import loaded

SHUFFLED, EMPTY, RANDOM = "another trial's", "empty caption", "random training image"
PROMPTED, RETRIEVED = "classifier + prompt", "nearest training image"
DECODED, NAMED = "ceiling: seen image, autoencoded", "ceiling: true class + prompt"
WHAT = {  # what each source is; a note on its answers follows
    SHUFFLED: "the model's images, shuffled across trials in which other images were seen",
    EMPTY: "the model's images for the empty caption, without any signal",
    RANDOM: "random training images",
    controls.PRIOR: "training images of the most frequent class",
    controls.PERMUTED: "training images of the class predicted by a classifier trained on permuted labels",
    controls.TIME: "training images of the class predicted from the time of the trial",
    controls.BEFORE: "training images of the class predicted from the signal before the image",
    controls.BLOCKS: "training images of the class predicted by a classifier of blocks without images",
    PROMPTED: "images of the diffusion model before training on signals, prompted with the class a classifier predicts",
    RETRIEVED: "the training image whose embedding is most similar to the one that the model predicts",
    DECODED: "the images seen, from their true latents: what the model's decoder makes of a perfect prediction",
    NAMED: "images of the diffusion model before training on signals, prompted with the class that was seen",
}
OF_ONE = 16  # images of one prompt, or of none, that are shared among trials

Images = UInt8[np.ndarray, "n S H W 3"]


@dataclass
class Sources:
    """The images by source, in the table's order; the missing sources with the reason; a note on each source."""

    images: dict[str, Images] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    predicted: dict[str, Int[np.ndarray, "n"]] = field(default_factory=dict)  # class, of sources that predict one


def sources(
    generator: TrialGenerator,
    trials: ImageTrials,
    scored: np.ndarray,
    request: TrialRequest,
    made: Images,
    material: ControlData,
    prompts: tuple[str, ...],
) -> tuple[Sources, ClassTask]:
    """Return all sources except the model itself, and the classes of trials.

    Args:
        made: the model's images of the trials `scored`.
        prompts: of classifier + prompt, with `{label}`.
    """
    rng = np.random.default_rng([request.seed, 5])
    train, side = generator.trials("train"), generator.side(request)
    known = np.unique(train.image)
    shown = target_images.load_all([train.images[i].path for i in known], side)
    count, out = (len(scored), request.samples), Sources()
    if len(np.unique(trials.image[scored])) > 1:
        out.images[SHUFFLED] = made[elsewhere(trials.image[scored], rng)]
    else:
        out.missing[SHUFFLED] = "in all of these trials the same image was seen"
    if generator.task.guided:
        out.images[EMPTY] = _unconditional(generator, request)[rng.integers(OF_ONE, size=count)]
    else:
        out.missing[EMPTY] = "the model has no unconditional branch"
    out.images[RANDOM] = shown[rng.integers(len(known), size=count)]

    task = ClassTask.of(generator.task.signal, train, generator.trials("val"), trials, scored, request.seed)
    class_of = dict(zip(train.image.tolist(), task.classes(train).tolist(), strict=True))
    members = [np.flatnonzero([class_of[int(i)] == k for i in known]) for k in range(len(task.names))]
    for number, answer in enumerate(controls.answers(task, material)):
        rng = np.random.default_rng([request.seed, 12, number])  # no source depends on which other sources exist
        if answer.classes is None:
            names = (PROMPTED, NAMED) if answer.name == controls.CLASSIFIER else (answer.name,)
            out.missing |= dict.fromkeys(names, answer.why)
        elif answer.name == controls.CLASSIFIER:
            _prompted(out, generator, task, answer, request, prompts, rng)
        else:
            chosen = [rng.choice(members[k], request.samples) for k in answer.classes]
            out.images[answer.name], out.predicted[answer.name] = shown[np.stack(chosen)], answer.classes
            out.notes[answer.name] = answer.why
    if generator.task.embedding_dim:
        target, mesh = generator.task.target, meshes.make(MeshConfig())
        bank = features.embeddings(target.bank_root, target.embedding, train.images, mesh, target.encode_batch)
        predicted = generator.embeddings(trials, scored)
        nearest = np.asarray(unit(predicted) @ unit(np.asarray(bank[known])).T).argmax(1)
        out.images[RETRIEVED] = shown[nearest][:, None]
        if len(task.names) > 1:
            out.predicted[RETRIEVED] = np.array([class_of[int(known[i])] for i in nearest])
    else:
        out.missing[RETRIEVED] = "the run was not aligned with embeddings"
    seen, place = np.unique(trials.image[scored], return_inverse=True)
    out.images[DECODED] = decoded(generator.model, target_images.load_all([trials.images[i].path for i in seen], side))
    out.images[DECODED] = out.images[DECODED][place][:, None]
    if NAMED in out.images:  # the ceilings come last
        out.images[NAMED] = out.images.pop(NAMED)
    out.notes = {name: "; ".join(filter(None, (WHAT[name], out.notes.get(name)))) for name in out.images}
    return out, task


def elsewhere(image_n: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return another trial for each one, in which another image was seen where there is one; each is used once."""
    order = rng.permutation(len(image_n))
    for _ in range(100):  # swap those that got their own image
        bad = np.flatnonzero(image_n[order] == image_n)
        if not len(bad):
            break
        for i, j in zip(bad, rng.integers(len(order), size=len(bad)), strict=True):
            order[i], order[j] = order[j], order[i]
    return order


def _unconditional(generator: TrialGenerator, request: TrialRequest) -> UInt8[np.ndarray, "k H W 3"]:
    """Return what the model's U-Net generates from the empty caption."""
    empty = {name: np.repeat(np.asarray(value), OF_ONE, axis=0) for name, value in generator.unconditional().items()}
    unguided = dataclasses.replace(request, guidance=1.0)
    return np.stack(list(batches.generate(generator.model, unguided, np.arange(OF_ONE), batches.rows_of(empty))))


def decoded(model: LatentDiffusion, images: UInt8[np.ndarray, "m H W 3"]) -> UInt8[np.ndarray, "m H W 3"]:
    """Return images as the model's autoencoder decodes the means of their latents."""

    @jax.jit
    def program(params: PyTree, batch: PyTree) -> jax.Array:
        vae = model.vae.bound(params)
        mean, _ = vae.moments(features.scaled(batch["image"]))
        return jnp.clip(vae.decode(mean) / 2 + 0.5, 0.0, 1.0)

    size, made = batches.at_once(model, None, len(images)), []
    for first in range(0, len(images), size):
        rows = images[np.minimum(np.arange(first, first + size), len(images) - 1)]
        with jax.set_mesh(model.mesh):
            part = program(model.vae.params, sharding.to_devices({"image": rows}, model.mesh, size))
        made.append(np.round(255 * np.asarray(part)).astype(np.uint8))
    return np.concatenate(made)[: len(images)]


def _prompted(
    out: Sources,
    generator: TrialGenerator,
    task: ClassTask,
    answer: Answer,
    request: TrialRequest,
    prompts: tuple[str, ...],
    rng: np.random.Generator,
) -> None:
    """Add the images of Stable Diffusion as it was before training, prompted with a class: predicted, and true."""
    assert answer.classes is not None
    model, parts = generator.model, generator.task.parts
    if model.text is None:
        out.missing |= dict.fromkeys((PROMPTED, NAMED), "the model has no text encoder")
        return
    known = bool((task.true >= 0).all())
    if not known:
        out.missing[NAMED] = "training has no image of some classes that were seen"
    classes = sorted({*answer.classes.tolist(), *(task.true.tolist() if known else ())})
    unet = loaded.load_network(parts, "unet", mesh=model.mesh, dtype=model.unet.arguments["dtype"], attention="auto")
    texts = [prompts[i % len(prompts)].format(label=task.names[k]) for k in classes for i in range(OF_ONE)]
    same = {f.name: getattr(request, f.name) for f in dataclasses.fields(batches.Sampling)}
    untrained = dataclasses.replace(model, unet=unet)
    with progress("prompt", len(texts)) as bar:
        images = list(from_prompts.images(untrained, TextRequest(prompts=tuple(texts), **same), bar))
    made = np.stack(images).reshape(len(classes), OF_ONE, *images[0].shape)
    chosen = rng.integers(OF_ONE, size=(len(answer.classes), request.samples))
    with_prompts = f"prompted with {' and '.join(repr(text) for text in prompts)}"
    out.images[PROMPTED], out.predicted[PROMPTED] = (
        made[np.searchsorted(classes, answer.classes)[:, None], chosen],
        answer.classes,
    )
    out.notes[PROMPTED] = f"{answer.why}; {with_prompts}"
    if known:
        out.images[NAMED], out.notes[NAMED] = made[np.searchsorted(classes, task.true)[:, None], chosen], with_prompts
