"""Score the runs of a job: the rank of the image that was seen, in the gallery of the tested images and in others."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dreamjax.comparison import protocols
from dreamjax.comparison.jobs import Scoring
from dreamjax.errors import UserError
from dreamjax.metrics import retrieval, transductive
from dreamjax.metrics.retrieval import Ranks
from dreamjax.systems.retrieval_base import VIEWS
from dreamjax.systems.retrieval_data import VECTOR, RetrievalData
from dreamjax.systems.retrieval_streams import vectors_of
from dreamjax.targets import image_folder
from dreamjax.targets.catalogue import catalogue
from dreamjax.training.task import PyTree

Cut = Callable[[Mapping[str, Array]], Mapping[str, Array]]  # trials → a part of each response
UNTRAINED, SHUFFLED = "untrained", "shuffled"  # controls: random parameters; images exchanged for one another
DISTRACTORS, AUGMENTED = "distractors", "augmented"  # galleries: with further images; of the views that are trained on
CSLS, WHITENED = "csls", "whitened"  # transductive: they know all test trials of a person
ROWS = 512  # trials that go through a network at once, outside training
NEAREST = 5  # images of the gallery that are kept for each trial


@dataclass
class Scored:
    """Ranks of every tested trial, by row of the table and seed."""

    ranks: dict[str, list[Ranks]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # of galleries that are not the one of the tested images
    exchanged: Float[np.ndarray, "G G"] | None = None  # sum over trials and seeds of 1 / rank, if column j were right
    nearest: Int[np.ndarray, "n k"] | None = None  # numbers in the catalogue, by the first seed
    similarity: Float[np.ndarray, "n"] | None = None  # of the image that was seen, by the first seed

    def add(self, name: str, ranks: Ranks, size: int | None = None) -> None:
        self.ranks.setdefault(name, []).append(ranks)
        if size is not None:
            self.sizes[name] = size


def score(
    task: RetrievalData, params: Mapping[str, Sequence[PyTree]], floor: Mapping[str, Sequence[PyTree]], scoring: Scoring
) -> Scored:
    """Return the ranks of each checkpoint of `params` and `floor`; what else is asked for, of the one that counts."""
    test = task.examples("test").trials
    gallery = test.gallery
    target = np.searchsorted(gallery, test.image)
    more = _distractors(task, scoring.distractors, gallery) if scoring.distractors else None
    scored, counted = Scored(), protocols.counted(tuple(params))
    for name, each in {**params, **floor}.items():
        for one in each:
            queries, vectors = queries_in_test(task, one), np.asarray(task.bank(one, "test").vectors)
            similarity = retrieval.similarities(queries, vectors, centred=False)
            scored.add(name, retrieval.ranks_in(similarity, target))
            if name == counted:
                _counted(scored, similarity, target, gallery)
                _changed_galleries(scored, task, one, queries, vectors, target, gallery, more)
                if scoring.transductive:
                    _transductive(scored, queries, vectors, similarity, target, test.subject)
    return scored


def _counted(scored: Scored, similarity: np.ndarray, target: np.ndarray, gallery: np.ndarray) -> None:
    """Add what is computed from the similarities alone."""
    if scored.exchanged is None:
        scored.exchanged = np.zeros((len(gallery), len(gallery)))
        scored.nearest = gallery[np.argsort(-similarity, axis=1, kind="stable")[:, :NEAREST]]
        scored.similarity = similarity[np.arange(len(target)), target]
    np.add.at(scored.exchanged, target, retrieval.ranks_of_all(similarity).reciprocal())
    exchanged = _exchanged(len(gallery))
    scored.add(SHUFFLED, retrieval.ranks_in(similarity, exchanged[target]))


def _exchanged(images: int) -> Int[np.ndarray, "G"]:
    """Return another image for each image, the same for all of its trials."""
    order = np.random.default_rng([14, images]).permutation(images)
    return np.roll(order, 1)[np.argsort(order)]


def _changed_galleries(
    scored: Scored,
    task: RetrievalData,
    params: PyTree,
    queries: np.ndarray,
    vectors: np.ndarray,
    target: np.ndarray,
    gallery: np.ndarray,
    more: np.ndarray | None,
) -> None:
    if more is not None:
        larger = np.concatenate([vectors, np.asarray(task.image_side(params, jnp.asarray(more)))])
        scored.add(DISTRACTORS, retrieval.ranks(queries, larger, target), len(larger))
    if VIEWS in task.vectors:
        batch = {name: jnp.asarray(x[gallery]) for name, x in task.vectors.items()} | {"image": jnp.asarray(gallery)}
        views = np.asarray(task.image_side(params, task.trained_vectors(batch)))
        scored.add(AUGMENTED, retrieval.ranks(queries, views, target))


def _transductive(
    scored: Scored,
    queries: np.ndarray,
    vectors: np.ndarray,
    similarity: np.ndarray,
    target: np.ndarray,
    person: np.ndarray,
) -> None:
    corrected, white = np.empty_like(similarity), np.empty_like(similarity)
    for one in np.unique(person):
        of = person == one
        corrected[of] = transductive.csls(similarity[of], min(transductive.NEIGHBOURS, *similarity[of].shape))
        white[of] = transductive.whitened_similarities(queries[of], vectors)
    scored.add(CSLS, retrieval.ranks_in(corrected, target))
    scored.add(WHITENED, retrieval.ranks_in(white, target))


def _distractors(task: RetrievalData, source: str, gallery: Int[np.ndarray, "G"]) -> Float[np.ndarray, "M *D"]:
    """Return the vectors of a split's images, or of a folder's, without those of the gallery.

    Raise UserError where there is no such split or folder, or no image is left.
    """
    known = catalogue(task.config.data.path)
    if source in known.split:
        chosen = np.setdiff1d(known.image[(known.split == source) & (known.image >= 0)], gallery)
        vectors = task.vectors[VECTOR][chosen]
    else:
        tested = [known.images[i] for i in gallery]
        names = [entry.name for entry in image_folder.listing(source, captions=False)]
        names = [name for name in names if not any(_same(name, one) for one in tested)]
        banks = task.banks()[VECTOR]
        vectors = vectors_of(tuple(one.with_images(source) for one in banks), tuple(names)) if names else []
    if not len(vectors):
        raise UserError(f"--distractors {source}: it holds no image that is not tested; name another split or folder")
    return np.asarray(vectors)


def _same(name: str, other: str) -> bool:
    """Return whether two names, one of which may lack its folders, are those of one image."""
    return f"/{name}".endswith(f"/{other}") or f"/{other}".endswith(f"/{name}")


# -------------------------------------------------------------------------------------------------- the brain side
def queries_of(task: RetrievalData, params: PyTree, trials: Mapping[str, Array]) -> Float[Array, "n F"]:
    """Return the brain's vectors of trials, `ROWS` at a time, within a program."""
    n = trials["signal"].shape[0]
    if n <= ROWS:
        return task.query(params, trials)
    blocks = -(-n // ROWS)
    padded = {name: jnp.pad(x, [(0, blocks * ROWS - n)] + [(0, 0)] * (x.ndim - 1)) for name, x in trials.items()}
    cut = {name: x.reshape(blocks, ROWS, *x.shape[1:]) for name, x in padded.items()}
    out = jax.lax.map(lambda block: task.query(params, block), cut)
    return out.reshape(blocks * ROWS, -1)[:n]


def queries_in_test(task: RetrievalData, params: PyTree, cut: Cut = dict) -> Float[np.ndarray, "n F"]:
    """Return the brain's vectors of the test trials, of what `cut` leaves of them."""
    rows = task.examples("test").rows
    trials = cut({name: jnp.asarray(rows[name]) for name in ("signal", "subject", "image")})
    return np.asarray(_compiled(task)(params, trials))


@functools.lru_cache(maxsize=4)
def _compiled(task: RetrievalData) -> Any:
    return jax.jit(functools.partial(queries_of, task))
