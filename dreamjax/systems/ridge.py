"""Ridge regression between brain responses and image vectors, in closed form: the floor of every retrieval system.

Decoding predicts an image's vector from the response; encoding predicts the response from the vector (Kay et al. 2008,
Nature 452, 352: the image whose predicted response is most similar is the one that was seen). Both standardise their
targets by the training trials, so that similarity is the correlation of deviations from the mean.

With standardised X (N x D) and Y, eigenvalues s and eigenvectors V of X'X, and C = V'X'Y, the weights of a penalty a
are V diag(1 / (s + a)) C. The penalty minimises the generalised cross-validation (Golub, Heath & Wahba 1979, equation
1.4)

    GCV(a) = N |Y - X W_a|² / (N - 1 - Σ s / (s + a))²,

which needs sums over the examples only: no held-out trial is spent on it, and one pass is enough.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.systems import retrieval_torch
from dreamjax.systems.base import ClosedFormSystem, Retrieves, Run
from dreamjax.systems.exchange import Checkpoint, Component, Exported, Exports, Format, Imported, ImportOptions, Imports
from dreamjax.systems.retrieval_data import RetrievalData, SizesConfig
from dreamjax.targets.banks import BankConfig
from dreamjax.targets.responses import ResponseConfig
from dreamjax.training.task import Batch, BatchSpec, PyTree
from dreamjax.training.train_config import TrainConfig

SMALLEST = 1e-6  # spread of what does not vary; eigenvalue, as a share of the largest, of a direction that is not there


@dataclass(frozen=True)
class RidgeModelConfig:
    """What is predicted from what, and the penalties that are tried."""

    direction: Literal["decode", "encode"] = "decode"
    bins: int = 25  # spans of time over which the signal is averaged first; 0: every sample is an input
    decades: tuple[float, ...] = (-5, -4, -3, -2, -1, 0, 1, 2, 3)  # penalties: 10^… times the mean eigenvalue

    def __post_init__(self) -> None:
        if self.bins < 0:
            raise ValueError(f"model.bins is {self.bins}, but it must be at least 0 (every sample)")
        if not self.decades:
            raise ValueError("model.decades is empty; give at least one power of ten")


@dataclass(frozen=True)
class RidgeConfig:
    """A ridge regression of retrieval."""

    system: Literal["ridge"] = "ridge"
    seed: int = 0  # nothing is random; kept so that a comparison can name its runs
    data: ResponseConfig = field(default_factory=ResponseConfig)
    target: BankConfig = field(default_factory=BankConfig)
    sizes: SizesConfig = field(default_factory=SizesConfig)
    model: RidgeModelConfig = field(default_factory=RidgeModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=1024))

    def __post_init__(self) -> None:
        configs.check_seed("seed", self.seed)


@dataclass(frozen=True)
class Ridge(ClosedFormSystem, RetrievalData):
    """The system of ridge regression."""

    config: RidgeConfig
    name: ClassVar[str] = "ridge"
    Config: ClassVar[type] = RidgeConfig
    capabilities: ClassVar[tuple[type, ...]] = (Retrieves, Exports, Imports)
    formats: ClassVar[tuple[Format, ...]] = ("torch",)
    presets: ClassVar[dict[str, Any]] = {"encode": RidgeConfig(model=RidgeModelConfig(direction="encode", bins=0))}

    def data(self, split: str) -> BatchSpec:
        spec = self.spec_of(split, self.config.train.batch_size, endless=False)  # type: ignore[arg-type]
        return BatchSpec(spec.stream, spec.batch_size, passes=1)

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        sizes = self.sizes
        shapes = {"signal": (sizes.channels, sizes.samples), "vector": (sizes.features,), "weight": ()}
        return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    def flops(self) -> float:
        inputs, outputs = (x.shape[1] for x in self._both(self._abstract()))
        return 2.0 * inputs * (inputs + outputs)

    def _abstract(self) -> dict[str, np.ndarray]:
        return {name: np.zeros((1, *x.shape), np.float32) for name, x in self.example().items()}

    # ---------------------------------------------------------------------------------------------------- regression
    def _both(self, batch: Batch) -> tuple[Float[Array, "B I"], Float[Array, "B O"]]:
        """Return inputs and outputs of the regression."""
        signal, vector = self.features(batch["signal"]), jnp.asarray(batch["vector"]).reshape(len(batch["vector"]), -1)
        return (signal, vector) if self.config.model.direction == "decode" else (vector, signal)

    def features(self, signal: Float[Array, "B C T"]) -> Float[Array, "B D"]:
        """Return the signal's means over spans of time, as one vector."""
        B, C, T = signal.shape
        bins = min(self.config.model.bins or T, T)
        width = T // bins
        return jnp.asarray(signal)[:, :, : bins * width].reshape(B, C, bins, width).mean(-1).reshape(B, C * bins)

    def statistics(self, batch: Batch) -> PyTree:
        x, y = self._both(batch)
        weight = batch["weight"][:, None]
        exact = jax.lax.Precision.HIGHEST
        return {
            "n": weight.sum(),
            "x": (weight * x).sum(0),
            "y": (weight * y).sum(0),
            "yy": (weight * y * y).sum(0),
            "xx": jnp.matmul((weight * x).T, x, precision=exact),
            "xy": jnp.matmul((weight * x).T, y, precision=exact),
        }

    def solve(self, statistics: PyTree) -> PyTree:
        s, exact = statistics, jax.lax.Precision.HIGHEST
        n = jnp.maximum(s["n"], 1)
        mean_x, mean_y = s["x"] / n, s["y"] / n
        spread_x, spread_y = _spread(s["xx"].diagonal(), mean_x, n), _spread(s["yy"], mean_y, n)
        gram = (s["xx"] - n * mean_x[:, None] * mean_x[None]) / spread_x[:, None] / spread_x[None]
        cross = (s["xy"] - n * mean_x[:, None] * mean_y[None]) / spread_x[:, None] / spread_y
        values, axes = jnp.linalg.eigh(gram)
        ranked = jnp.arange(len(values)) >= len(values) - (n - 1)  # N centred examples span N - 1 directions
        there = ranked & (values > SMALLEST * values[-1])
        values = jnp.where(there, values, 0)
        along = jnp.matmul(axes.T, cross, precision=exact)  # C of the module's docstring
        explained = jnp.where(there, jnp.square(along).sum(1) / jnp.where(there, values, 1), 0)  # without a penalty
        penalties = values.mean() * 10.0 ** jnp.asarray(self.config.model.decades)
        beyond = jnp.maximum(n * len(mean_y) - explained.sum(), 0)  # of Y, what no weights reach

        def gcv(penalty: Array) -> Array:
            # both in terms of what a penalty leaves, a / (s + a): differences would be lost to rounding where D > N
            left = jnp.where(there, penalty / (values + penalty), 0)
            rest = beyond + (explained * left**2).sum()
            return n * rest / jnp.square(n - 1 - there.sum() + left.sum())

        penalty = penalties[jnp.argmin(jax.vmap(gcv)(penalties))]
        kernel = jnp.matmul(axes, along / (values + penalty)[:, None], precision=exact)
        kernel = kernel / spread_x[:, None]
        return {"kernel": kernel, "mean_x": mean_x, "mean_y": mean_y, "spread_y": spread_y, "penalty": penalty}

    # ----------------------------------------------------------------------------------------------------- retrieval
    def _predicted(self, params: PyTree, x: Float[Array, "B I"]) -> Float[Array, "B O"]:
        return (x - params["mean_x"]) @ params["kernel"]

    def _standardised(self, params: PyTree, y: Float[Array, "B O"]) -> Float[Array, "B O"]:
        spread = params["spread_y"]  # 0 before anything was solved
        return (y - params["mean_y"]) / jnp.where(spread > 0, spread, 1)

    def query(self, params: PyTree, batch: Batch) -> Float[Array, "B O"]:
        x = self.features(batch["signal"])
        return self._predicted(params, x) if self.config.model.direction == "decode" else self._standardised(params, x)

    def image_side(self, params: PyTree, vectors: Float[Array, "M *D"]) -> Float[Array, "M O"]:
        """Return what an image is compared by: its standardised vector, or the response predicted from it."""
        flat = vectors.reshape(len(vectors), -1)
        return self._standardised(params, flat) if self.config.model.direction == "decode" else (
            self._predicted(params, flat)
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------- PyTorch, both ways
    def export(self, run: Run, format: Format) -> Exported:
        """Return the folder that a PyTorch user loads in one line."""
        trained = dataclasses.replace(
            self.config, sizes=self.sizes, data=dataclasses.replace(self.config.data, path=())
        )
        tensors = {name: np.asarray(x, np.float32) for name, x in run.params.items()}
        rng, sizes = np.random.default_rng(0), self.sizes
        signal = rng.standard_normal((3, sizes.channels, sizes.samples)).astype(np.float32)
        vectors = rng.standard_normal((3, sizes.features)).astype(np.float32)
        with jax.default_matmul_precision("highest"):
            brain = np.asarray(self.query(run.params, {"signal": jnp.asarray(signal)}))
            image = np.asarray(self.image_side(run.params, jnp.asarray(vectors)))
        config = {
            "direction": self.config.model.direction,
            "bins": self.config.model.bins,
            "shapes": {name: list(x.shape) for name, x in tensors.items()},
            "run": json.loads(configs.to_json(trained)),
        }
        text = (retrieval_torch.PYTORCH / "ridge.py").read_text(encoding="utf-8")
        return Exported(
            {"": Component(config, tensors, {f"{retrieval_torch.MODULE}.py": text})},
            {"signal": signal, "vectors": vectors, "brain": brain, "image": image},
            retrieval_torch.CHECK.replace(', p["subject"]', ""),
            title="ridge: a linear retrieval system solved with dreamjax",
            usage=retrieval_torch.USAGE,
            rows={"image vectors": self.config.target.words, "direction": self.config.model.direction},
            compared="`signal` and `vectors`, and dreamjax's `brain` and `image` for them",
        )

    @classmethod
    def imported(cls, checkpoint: Checkpoint, options: ImportOptions) -> Imported | None:
        settings = checkpoint.settings.get("run")
        if not isinstance(settings, dict) or settings.get("system") != cls.name:
            return None
        config: Any = configs.from_json(RidgeConfig, json.dumps(settings), f"{checkpoint.source}/config.json")
        names = ("kernel", "mean_x", "mean_y", "spread_y", "penalty")
        if missing := [name for name in names if name not in checkpoint.tensors]:
            raise UserError(f"{checkpoint.source}: the tensors {', '.join(missing)} are missing; export it again")
        params = {name: np.asarray(checkpoint.tensors[name], np.float32) for name in names}
        return Imported(cls.name, config, params, sum(x.size for x in params.values()), {"system": cls.name})


def _spread(squares: Array, mean: Array, n: Array) -> Array:
    """Return the standard deviation, 1 where nothing varies."""
    spread = jnp.sqrt(jnp.maximum(squares / n - mean**2, 0))
    return jnp.where(spread > SMALLEST, spread, 1.0)


SYSTEM = Ridge
