"""Trials → images: a trained DreamDiffusion on a mesh, and windows of brain signal."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from dreamjax.errors import UserError
from dreamjax.generation import batches
from dreamjax.generation.batches import Sampling
from dreamjax.parallel import environment
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.runs.latent_diffusion import LatentDiffusion
from dreamjax.systems.base import GeneratesFromTrials, Run, capability
from dreamjax.targets import trials
from dreamjax.targets.trials import ImageTrials
from dreamjax.training.task import PyTree

NUMBERS = 20  # bits of a trial's number; a sample's lie above them, 32 in all
MOST = 1 << 32 - NUMBERS  # samples of a trial


@dataclass(frozen=True, kw_only=True)
class Request(Sampling):
    """Which trials, and how many images of each."""

    input: tuple[str, ...] = ()  # dataset folders; empty: the run's own
    split: str = "test"
    trials: int | None = None  # drawn at random with the seed; None: all of the split
    samples: int = 1  # images of each trial

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.samples < MOST or (self.trials is not None and self.trials < 1):
            raise UserError(f"--trials is at least 1, and --samples from 1 to {MOST - 1}")


@dataclass(frozen=True)
class Dreamer:
    """A trained system that generates images from trials, on a mesh. `whole`: (params, frozen) of its conditioning."""

    task: GeneratesFromTrials
    model: LatentDiffusion
    whole: tuple[PyTree, PyTree]
    seed: int  # of the run, which orders its trials

    @classmethod
    def open(cls, run: Run, dtype: str = "float32", attention: str = "auto") -> "Dreamer":
        """Return the system of a run's checkpoint. Raise UserError for one that does not generate from trials."""
        task = capability(run.task, GeneratesFromTrials, "generate images from trials")
        environment.check_attention(attention, "--attention", "--attention auto")
        mesh = meshes.make(MeshConfig())
        model = task.pipeline(run, mesh, dtype=dtype, attention=attention)
        return cls(task, model, task.conditioning(run, mesh), run.config.seed)

    def trials(self, split: str, paths: tuple[str, ...] = ()) -> ImageTrials:
        """Those of a split of the images, of the run's recordings or of other ones."""
        data = self.task.signal
        data = dataclasses.replace(data, path=paths, weights=()) if paths else data
        return _countable(trials.trials(data, self.task.target, split, seed=self.seed, training=False))

    def windows(self, paths: tuple[str, ...]) -> ImageTrials:
        """All of other recordings, whether or not it is known what was seen."""
        data = dataclasses.replace(self.task.signal, path=paths, weights=())
        return _countable(trials.windows(data, self.task.target, seed=self.seed))

    def side(self, request: Request) -> int:
        """Of the images, in pixels. Raises UserError where they are not square: those that were seen are."""
        height, width = batches.described(self.model, request)["size"]
        if height != width:
            raise UserError(f"images of {height} x {width} are not square, and those that were seen are; leave it out")
        return height

    def read(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`context`, and where the model has them `time_offset` and `embedding`, of windows (`signal`, `valid`)."""
        batch = {name: rows[name] for name in ("signal", "valid")}
        with jax.set_mesh(self.model.mesh):
            found = self.program(*self.whole, batch)
        return {name: np.asarray(value) for name, value in found.items()}

    @functools.cached_property
    def program(self) -> Callable[..., dict[str, jax.Array]]:
        """The compiled way from windows to conditions; see `read`."""
        return jax.jit(self.task.condition)

    def images(self, found: ImageTrials, own: np.ndarray, request: Request, bar: Any = None) -> Iterator[np.ndarray]:
        """`request.samples` images of each of the trials `own`, one after another."""
        numbers = np.array([sample << NUMBERS | int(trial) for trial in own for sample in range(request.samples)])

        def rows(index: np.ndarray) -> dict[str, np.ndarray]:
            trial = index & (1 << NUMBERS) - 1
            read = self.read(found.read(trial))
            return {name: value for name, value in read.items() if name != "embedding"}

        empty = self.unconditional() if request.guided else None
        return batches.paint(self.model, request, numbers, rows, unconditional=empty, bar=bar)

    def images_of(self, given: Mapping[str, np.ndarray], how: Sampling, noise: np.ndarray | None = None) -> Any:
        """One image of each window of `given` (`signal` in the network's units, `valid`), one after another.

        `noise` (n, h, w, Z): to start from, in place of that of (seed, place).
        """
        read = {name: value for name, value in self.read(given).items() if name != "embedding"}
        read |= {} if noise is None else {"noise": noise}
        empty = self.unconditional() if how.guided else None
        numbers = np.arange(len(given["signal"]))

        def rows(index: np.ndarray) -> dict[str, np.ndarray]:
            return {name: value[index] for name, value in read.items()}

        return batches.paint(self.model, how, numbers, rows, unconditional=empty)

    def unconditional(self) -> dict[str, jax.Array]:
        """Return what guidance leads away from. Raise UserError where the model has nothing of the kind."""
        return self.task.unconditional(*self.whole)


def _countable(found: ImageTrials) -> ImageTrials:
    if len(found) > 1 << NUMBERS:
        raise UserError(f"there are {len(found)} trials, of at most {1 << NUMBERS}; give fewer with --input")
    return found


def chosen(found: ImageTrials, request: Request) -> np.ndarray:
    """The places of the trials that are shown: all, or so many drawn at random with the seed; never picked."""
    if request.trials is None or request.trials >= len(found):
        return np.arange(len(found))
    return np.sort(np.random.default_rng([request.seed, 4]).choice(len(found), request.trials, replace=False))
