"""Controls of a comparison, once for all of its systems: ridge regressions that see no response to the image.

The time index knows when a trial was, and no signal: smooth functions of its time in the session, for each session.
Slow drift, or an order of the images that training and test share, is all that it can use. Before the image: the
samples before the onset. A control that the data rule out is listed with the reason.
"""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dreamjax.comparison.fitting import Fitted
from dreamjax.comparison.jobs import Job
from dreamjax.evaluation.controls import BEFORE, BLOCKS, OF_CORPUS, TIME
from dreamjax.metrics import retrieval
from dreamjax.metrics.averaging import averaged
from dreamjax.signals.datasets import records
from dreamjax.systems import registry
from dreamjax.systems.retrieval_data import VECTOR
from dreamjax.targets import responses
from dreamjax.targets.banks import BankConfig
from dreamjax.targets.catalogue import Catalogue, catalogue
from dreamjax.targets.responses import ResponseConfig

LAYOUT = "layout of the rig"
WAVES = 8  # cosines of the time in a session, from the constant to 3.5 periods
NOT_POSSIBLE = {
    BLOCKS: "it needs continuous signal without images, and the data are trials",
    LAYOUT: "sensors stay in place within a session, and the time index knows the sessions",
}
CAUSALITY = "filters of zero phase carry what follows the onset into the time before it: prepare with --causal"

Trained = tuple[np.ndarray, np.ndarray]  # inputs of trials, and the number of each one's image
Tested = Float[np.ndarray, "n D"]


def fit(job: Job) -> Fitted:
    """Return the ranks of each control that the data allow, of the job's people; `notes`: what the others lack."""
    began = time.monotonic()
    config = job.configs[0]
    test = responses.load(config.data, "test")
    task: Any = registry.build(config)
    plain, images = plain_ridge(config), task.vectors[VECTOR]
    target = np.searchsorted(test.gallery, test.image)
    ruled_out = {
        OF_CORPUS[name]: why
        for path in config.data.path
        for name, why in records.impossible(path).items()
        if name in OF_CORPUS
    }
    notes, ranks = NOT_POSSIBLE | ruled_out, {}
    for name, way in ((TIME, _timed), (BEFORE, _before)):
        if name in notes:
            continue
        inputs = way(task)
        if isinstance(inputs, str):
            notes[name] = inputs
            continue
        (x, image), tested, note = inputs
        arrays = (jnp.asarray(each, jnp.float32) for each in (x, images[image], tested, images[test.gallery]))
        queries, vectors = (np.asarray(each) for each in _ridge(plain, *arrays))
        ranks[name] = [retrieval.ranks(queries, vectors, target)]
        notes |= {name: note} if note else {}
    return Fitted(
        ranks=ranks, params={}, epochs={}, curves={}, image=test.image, person=test.subject, repeats=test.repeats,
        gallery=len(test.gallery), galleries={}, further={}, closed_form=True, parameters={},
        seconds=time.monotonic() - began, notes=notes,
    )  # fmt: skip


def plain_ridge(config: Any) -> Any:
    """Return the regression of a job without its data: it is compiled once for all people, and reads every input."""
    whole = dataclasses.replace(config.model, bins=0)
    return registry.build(dataclasses.replace(config, data=ResponseConfig(), target=BankConfig(), model=whole))


@functools.partial(jax.jit, static_argnums=0)
def _ridge(
    task: Any,
    x: Float[Array, "N D"],
    seen: Float[Array, "N *F"],
    tested: Float[Array, "n D"],
    gallery: Float[Array, "G *F"],
) -> tuple[Float[Array, "n F"], Float[Array, "G F"]]:
    """Return the vectors that are predicted for tested inputs, and those of the gallery as they are compared."""
    params = task.solve(task.statistics({"signal": x[..., None], "vector": seen, "weight": jnp.ones(len(x))}))
    return task.query(params, {"signal": tested[..., None]}), task.image_side(params, gallery)


# ------------------------------------------------------------------------------------------------------ the time index
def _timed(task: Any) -> tuple[Trained, Tested, str] | str:
    data: ResponseConfig = task.config.data
    known = catalogue(data.path)
    train, test = (responses.members(data, known, split) for split in ("train", "test"))  # type: ignore[arg-type]
    if not np.isfinite(known.start).all() or not any(_spans(known, rows) for rows in (train, test)):
        return "the records do not hold the times of trials"
    x = time_features(known)
    tested = x[test]
    if data.test_repeats == "average":
        tested = averaged(tested, known.subject[test], known.image[test]).values
    return (x[train], known.image[train]), tested, ""


def _spans(known: Catalogue, rows: Int[np.ndarray, "n"]) -> bool:
    return any(np.ptp(known.start[rows[known.session[rows] == one]]) > 0 for one in np.unique(known.session[rows]))


def time_features(known: Catalogue) -> Float[np.ndarray, "records D"]:
    """Return cosines of each trial's time in its session, for all sessions and for each number of a session."""
    within, number = np.zeros(len(known.start)), np.zeros(len(known.start), int)
    for person in np.unique(known.subject):
        for count, session in enumerate(np.unique(known.session[known.subject == person])):
            of = known.session == session
            number[of] = count
            within[of] = (known.start[of] - known.start[of].min()) / max(np.ptp(known.start[of]), 1e-9)
    waves = np.cos(np.pi * within[:, None] * np.arange(WAVES))
    sessions = np.eye(number.max() + 1)[number]
    apart = (sessions[:, :, None] * waves[:, None]).reshape(len(waves), -1)
    return np.concatenate([waves, apart], axis=1) if sessions.shape[1] > 1 else waves


# ---------------------------------------------------------------------------------------------------- before the image
def _before(task: Any) -> tuple[Trained, Tested, str] | str:
    data: ResponseConfig = task.config.data
    settings = catalogue(data.path).settings
    begins = max(float(one.get("tmin", 0.0) or 0.0) for one in settings)
    if begins >= 0:
        return f"the trials have no samples before the image (their first is at {begins:g} s)"
    early = dataclasses.replace(data, tmin=begins, tmax=0.0)
    train, test = (responses.load(early, split) for split in ("train", "test"))  # type: ignore[arg-type]
    x, tested = (np.asarray(task.features(one.signal)) for one in (train, test))
    note = CAUSALITY if any(one.get("causal") is False for one in settings) else ""
    return (x, train.image), tested, note
