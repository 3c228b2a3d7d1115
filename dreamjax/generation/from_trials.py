"""Generate images from trials or windows of brain signal, by a trained system on a mesh."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, UInt8

from dreamjax.console import Bar
from dreamjax.errors import UserError
from dreamjax.generation import batches
from dreamjax.generation.batches import Sampling
from dreamjax.parallel import environment
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.runs.latent_diffusion import LatentDiffusion
from dreamjax.systems.base import GeneratesFromTrials, Run, generator
from dreamjax.targets import trials
from dreamjax.targets.trials import ImageTrials
from dreamjax.training.task import PyTree

NUMBERS = 20  # bits of a trial's number; a sample's lie above them, 32 in all
MOST = 1 << 32 - NUMBERS  # samples of a trial
BATCH = 256  # trials whose embeddings are computed at once


@dataclass(frozen=True, kw_only=True)
class TrialRequest(Sampling):
    """A request: which trials, and how many images of each."""

    input: tuple[str, ...] = ()  # dataset folders; empty: those of the run
    split: str = "test"
    trials: int | None = None  # drawn at random with the seed; None: all of the split
    samples: int = 1  # images of each trial

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.samples < MOST or (self.trials is not None and self.trials < 1):
            raise UserError(f"--trials is at least 1, and --samples from 1 to {MOST - 1}")

    def chosen(self, trials: ImageTrials) -> np.ndarray:
        """Return the places of the trials that are used: all, or a number drawn at random with the seed."""
        if self.trials is None or self.trials >= len(trials):
            return np.arange(len(trials))
        return np.sort(np.random.default_rng([self.seed, 4]).choice(len(trials), self.trials, replace=False))


@dataclass(frozen=True)
class TrialGenerator:
    """A trained system that generates images from trials, on a mesh.

    `conditioning`: (params, frozen) of what turns windows into conditions.
    """

    task: GeneratesFromTrials
    model: LatentDiffusion
    conditioning: tuple[PyTree, PyTree]
    seed: int  # of the run, which orders its trials

    @classmethod
    def open(cls, run: Run, dtype: str = "float32", attention: str = "auto") -> "TrialGenerator":
        """Open the system of a run's checkpoint. Raise UserError for one that does not generate from trials."""
        task = generator(run, GeneratesFromTrials, "generate images from trials")
        environment.check_attention(attention, "--attention", "--attention auto")
        mesh = meshes.make(MeshConfig())
        model = task.pipeline(run, mesh, dtype=dtype, attention=attention)
        return cls(task, model, task.conditioning(run, mesh), run.config.seed)

    def trials(self, split: str, paths: tuple[str, ...] = ()) -> ImageTrials:
        """Return the trials of a split of the images, from the run's recordings or from other ones."""
        data = self.task.signal
        data = dataclasses.replace(data, path=paths, weights=()) if paths else data
        return _countable(trials.trials(data, self.task.target, split, seed=self.seed, training=False))

    def windows(self, paths: tuple[str, ...]) -> ImageTrials:
        """Return all windows of other recordings, whether or not it is known what was seen."""
        data = dataclasses.replace(self.task.signal, path=paths, weights=())
        return _countable(trials.windows(data, self.task.target, seed=self.seed))

    def side(self, how: Sampling) -> int:
        """Return the side of the images, pixels. Raise UserError where they are not square: those seen are."""
        height, width = batches.summary(self.model, how)["size"]
        if height != width:
            raise UserError(f"images of {height} x {width} are not square, and those that were seen are; leave it out")
        return height

    def conditions(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return `context`, and where the model has them `time_offset` and `embedding`, of windows."""
        batch = {name: rows[name] for name in ("signal", "valid")}
        with jax.set_mesh(self.model.mesh):
            conditions = self.program(*self.conditioning, batch)
        return {name: np.asarray(value) for name, value in conditions.items()}

    @functools.cached_property
    def program(self) -> Callable[..., dict[str, jax.Array]]:
        """Return the compiled function from windows to conditions; see `conditions`."""
        return jax.jit(self.task.condition)

    def images(
        self, trials: ImageTrials, chosen: np.ndarray, request: TrialRequest, bar: Bar | None = None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Generate `request.samples` images of each of the trials `chosen`, one after another."""
        numbers = np.array([sample << NUMBERS | int(trial) for trial in chosen for sample in range(request.samples)])

        def rows(index: np.ndarray) -> dict[str, np.ndarray]:
            conditions = self.conditions(_rows(trials, index & (1 << NUMBERS) - 1))
            return {name: value for name, value in conditions.items() if name != "embedding"}

        return self._generated(request, numbers, rows, bar)

    def _generated(
        self, how: Sampling, numbers: np.ndarray, rows: batches.Rows, bar: Bar | None = None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        empty = self.unconditional() if how.guided else None
        return batches.generate(self.model, how, numbers, rows, unconditional=empty, bar=bar)

    def images_of(
        self, windows: Mapping[str, np.ndarray], how: Sampling, noise: np.ndarray | None = None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Generate one image of each window (`signal` in the network's units, `valid`), one after another.

        `noise` (n, h, w, Z): to start from, in place of that of (seed, index).
        """
        given = self.conditions(windows) | ({} if noise is None else {"noise": noise})
        given.pop("embedding", None)
        return self._generated(how, np.arange(len(windows["signal"])), batches.rows_of(given))

    def embeddings(self, trials: ImageTrials, chosen: np.ndarray) -> Float[np.ndarray, "n P"]:
        """Return the embedding that the model predicts from each of the trials `chosen`."""
        parts = (chosen[first : first + BATCH] for first in range(0, len(chosen), BATCH))
        return np.concatenate([self.conditions(_rows(trials, part))["embedding"] for part in parts])

    def unconditional(self) -> dict[str, jax.Array]:
        """Return the unconditional input of guidance. Raise UserError where the model has no unconditional branch."""
        return self.task.unconditional(*self.conditioning)


def _rows(trials: ImageTrials, trial: np.ndarray) -> dict[str, np.ndarray]:
    return trials.windows.read(trials.record[trial], trial.astype(np.uint64))


def _countable(trials: ImageTrials) -> ImageTrials:
    if len(trials) > 1 << NUMBERS:
        raise UserError(f"there are {len(trials)} trials, of at most {1 << NUMBERS}; give fewer with --input")
    return trials
