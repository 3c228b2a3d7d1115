"""Masked-signal pretraining (DreamDiffusion, arXiv 2306.16934, stage A; MinD-Vis, arXiv 2211.06956, section 3.1).

A window of all channels is cut into patches of time, some are hidden, a vision transformer encodes the visible ones and
a small decoder predicts the hidden ones. The encoder is what one wants afterwards: `features`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.models.keys import Keys
from dreamjax.models.masked_autoencoder import MaskedAutoencoder, patchify, unpatchify
from dreamjax.models.transformer import REMAT_NAMES
from dreamjax.objectives import masking
from dreamjax.objectives.masking import MaskConfig
from dreamjax.objectives.reconstruction_loss import ReconstructionConfig, reconstruction
from dreamjax.parallel import platform
from dreamjax.parallel.sharding import Rules
from dreamjax.signals.datasets import pipeline
from dreamjax.signals.datasets.pipeline import DataConfig
from dreamjax.training import optimiser
from dreamjax.training.held_out import averaged, summed
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, BatchSpec, Metrics, PyTree, State, Stream, WeightSource, replace
from dreamjax.training.train_config import TrainConfig
from dreamjax.training.update import gradient_update


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the encoder and the decoder, and how they are computed."""

    channels: int = 19  # of the template montage in `data`
    patch: int = 4  # samples per token
    dim: int = 192
    depth: int = 4
    heads: int = 6
    mlp_ratio: float = 4.0
    decoder_dim: int = 128
    decoder_depth: int = 2  # 0: an encoder alone, which does not reconstruct
    decoder_heads: int = 4
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; parameters are float32
    attention: Literal["auto", "xla", "cudnn", "saved"] = "auto"  # see models/attention.py
    scan_layers: bool = True  # False: unrolled, slower to compile
    remat: Literal["none", "full", "dots", "names"] = "none"
    cls_token: bool = True  # whether a cls token goes ahead of the patches
    positions: Literal["sincos", "learned"] = "sincos"  # learned: a parameter for data.samples / patch tokens
    remat_names: tuple[str, ...] = ()  # kept for the backward pass with remat names: qkv, attention, hidden
    interpolation: Literal["none", "gaussian"] = "none"  # gaussian: predict the residual of a learned interpolation
    spectrum_points: int = 128  # … whose log power spectrum has so many points from zero frequency to Nyquist

    def __post_init__(self) -> None:
        counts = ("channels", "patch", "dim", "heads", "decoder_dim", "decoder_heads", "depth", "spectrum_points")
        for name in (*counts, "decoder_depth"):
            least = int(not name.startswith("decoder_d") or (name == "decoder_dim" and self.decoder_depth > 0))
            if (count := getattr(self, name)) < least:
                raise ValueError(f"model.{name} is {count}, but it must be at least {least}")
        if not 0 < self.mlp_ratio < math.inf:
            raise ValueError(f"model.mlp_ratio is {self.mlp_ratio}, but it must be positive")
        for dim, heads, name in ((self.dim, self.heads, ""), (self.decoder_dim, self.decoder_heads, "decoder_")):
            if dim % heads or dim % 2:
                raise ValueError(
                    f"model.{name}dim is {dim}, but it must be even and divide by model.{name}heads = {heads}"
                )
        if self.decoder_depth and not self.cls_token:
            raise ValueError("model.cls_token is false, but a decoder (model.decoder_depth > 0) needs the cls token")
        if self.interpolation != "none" and not self.decoder_depth:
            raise ValueError("model.interpolation needs a decoder (model.decoder_depth > 0)")
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise ValueError("model.attention=cudnn computes in bfloat16: set model.dtype=bfloat16")
        if unknown := set(self.remat_names) - set(REMAT_NAMES):
            raise ValueError(f"model.remat_names has {sorted(unknown)[0]!r}; a block names {', '.join(REMAT_NAMES)}")


@dataclass(frozen=True)
class MaskedPretrainingConfig:
    """A run of masked-signal pretraining."""

    system: Literal["masked_pretraining"] = "masked_pretraining"
    seed: int = 2022  # of parameters, data order, crops and masks
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    loss: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        configs.check_seed("seed", self.seed)
        if self.data.samples % self.model.patch:
            raise ValueError(
                f"data.samples is {self.data.samples}, but it must divide by model.patch = {self.model.patch}"
            )
        if self.model.interpolation != "none" and self.loss.target != "raw":
            raise ValueError("model.interpolation predicts the signal itself and needs loss.target = raw")
        if ("channel" in self.mask.kinds) != (self.data.mask_channels > 0):
            raise ValueError(
                f"mask.kind is {self.mask.kind} and data.mask_channels is {self.data.mask_channels}; channel masking "
                "takes both mask.kind=channel and data.mask_channels > 0, as channels are removed before referencing"
            )

    @property
    def patches(self) -> int:
        """Tokens of a window."""
        return self.data.samples // self.model.patch

    def flops(self) -> dict[str, float]:
        """Analytic operations per full window, by part; see `models.flops`."""
        from dreamjax.models import flops

        return flops.masked_autoencoder(self.model, self.patches, self.mask.mean_visible(self.patches))


def preset(name: str) -> ConfigDict:
    """The config of a shipped setting, to change and to load. Raises UserError for an unknown name."""
    from dreamjax.systems import masked_presets  # which builds on this module

    return masked_presets.preset(name)


# --------------------------------------------------------------------------------------------------- pure functions
def network(config: MaskedPretrainingConfig, rng: Array) -> MaskedAutoencoder:
    """The network with fresh parameters drawn from `rng`."""
    m = dataclasses.asdict(config.model)
    dtype = jnp.dtype(m.pop("dtype"))
    learned = config.patches if m.pop("positions") == "learned" else 0
    return MaskedAutoencoder(**m, learned_positions=learned, dtype=dtype, rngs=Keys(rng))


def init_params(config: MaskedPretrainingConfig, rng: Array) -> PyTree:
    """The parameters as a nested dict of float32 arrays; stacked layers have a leading axis."""
    return nnx.to_pure_dict(nnx.state(network(config, rng), nnx.Param))


@functools.lru_cache(maxsize=32)
def _graph(model: ModelConfig, samples: int) -> Any:
    config = MaskedPretrainingConfig(model=model, data=DataConfig(samples=samples))
    abstract = nnx.eval_shape(lambda: network(config, jax.random.key(0)))
    return nnx.split(abstract, nnx.Param)[0]


def bind(config: MaskedPretrainingConfig, params: PyTree) -> MaskedAutoencoder:
    """The network around given parameters; free of cost, also under jit.

    Where there is no GPU, attention that was trained with cuDNN is computed by the usual implementation.
    """
    model = config.model if _has_cudnn(config.model) else dataclasses.replace(config.model, attention="auto")
    return nnx.merge(_graph(model, config.data.samples), params)


def _has_cudnn(model: ModelConfig) -> bool:
    """Whether this process can compute a model's attention as it asks for."""
    return model.attention != "cudnn" or jax.default_backend() == "gpu"


def reconstruct(
    config: MaskedPretrainingConfig,
    params: PyTree,
    signal_BxCxT: Float[Array, "B C T"],
    masked_BxN: Bool[Array, "B N"],
    valid_BxT: Float[Array, "B T"] | None = None,
    visible: int | None = None,
) -> Float[Array, "B C T"]:
    """The decoder's signal, in the scaled units of the input, for any mask (True = hidden patch), at every patch.

    `visible` bounds the number of visible patches of any row (default: all N), and so the encoder's work; with less
    than a row has, the row's later patches are hidden too. Raises UserError for a model of normalised targets, whose
    predictions have lost their scale.
    """
    if config.loss.target != "raw":
        raise UserError("a model trained on patch_normalised targets predicts no signal; train with loss.target=raw")
    N = masked_BxN.shape[1]
    valid_BxN = None if valid_BxT is None else masking.patch_valid(valid_BxT, config.model.patch)
    mask = masking.of_hidden(masked_BxN, valid_BxN)
    slots = N if visible is None else min(visible, N)
    return unpatchify(_predict(bind(config, params), config, signal_BxCxT, mask, slots, True), config.model.channels)


def features(
    config: MaskedPretrainingConfig,
    params: PyTree,
    signal_BxCxT: Float[Array, "B C T"],
    valid_BxT: Float[Array, "B T"] | None = None,
) -> Float[Array, "B N D"]:
    """The encoder's tokens after the final norm, nothing hidden, the cls token left out. Pool them with `pooled`."""
    patches = patchify(signal_BxCxT, config.model.patch)
    ok = None if valid_BxT is None else masking.patch_valid(valid_BxT, config.model.patch)
    tokens = bind(config, params).encode(patches, None, ok)
    return tokens[:, int(config.model.cls_token) :].astype(jnp.float32)


def pooled(tokens_BxNxD: Float[Array, "B N D"], valid_BxN: Bool[Array, "B N"] | None = None) -> Float[Array, "B D"]:
    """One vector per window: the mean of its tokens, padding left out."""
    if valid_BxN is None:
        return tokens_BxNxD.mean(1)
    weight = valid_BxN[:, :, None].astype(tokens_BxNxD.dtype)
    return (tokens_BxNxD * weight).sum(1) / jnp.maximum(weight.sum(1), 1)


def _predict(
    model: MaskedAutoencoder,
    config: MaskedPretrainingConfig,
    signal_BxCxT: Float[Array, "B C T"],
    mask: masking.Mask,
    slots: int,
    varies: bool,
) -> Float[Array, "B N P"]:
    if not config.model.decoder_depth:
        raise UserError(
            "model.decoder_depth is 0: an encoder alone gives features, but reconstructs and trains nothing"
        )
    ok, valid = (mask.slots_ok(slots), mask.valid) if varies else (None, None)
    return model(patchify(signal_BxCxT, config.model.patch), mask.order, slots, ok, valid)


def masked_loss(
    config: MaskedPretrainingConfig,
    params: PyTree,
    batch: Batch,
    purpose_seed: int | Array,
    normalised: Array | None = None,
) -> tuple[Array, Array, dict[str, tuple[Array, Array]]]:
    """`(sum, weight, metrics)` of a batch whose masks are keyed by (purpose_seed, batch["index"]).

    `normalised`: of targets, in place of `config.loss.target`, for a program that trains either.
    """
    patch = config.model.patch
    signal, target = batch["signal"], batch.get("target", batch["signal"])
    _, C, T = signal.shape
    mask = masking.draw(config.mask, purpose_seed, batch["index"], masking.patch_valid(batch["valid"], patch))
    if "channel_mask" in batch:  # examples that hide time see all channels
        signal = jnp.where(mask.channel[:, None, None], signal, target)
    slots = config.mask.visible_slots(T // patch)
    prediction = _predict(bind(config, params), config, signal, mask, slots, config.mask.varies)
    weight = _weights(config, mask, batch, patch, C)
    return reconstruction(config.loss, prediction, patchify(target, patch), weight, normalised)


def _weights(
    config: MaskedPretrainingConfig, mask: masking.Mask, batch: Batch, patch: int, C: int
) -> Float[Array, "B N P"]:
    """The loss's weight of every entry: hidden or visible, real channel or interpolated, padding, padded example."""
    hidden_BxNxC = jnp.broadcast_to(mask.hidden[:, :, None], (*mask.hidden.shape, C))
    if "channel_mask" in batch:
        hidden_BxNxC = jnp.where(mask.channel[:, None, None], batch["channel_mask"][:, None, :] > 0, hidden_BxNxC)
    of_channel_BxC = jnp.where(batch["channel_ok"] > 0, 1.0, config.loss.interpolated_weight)
    weight = jnp.where(hidden_BxNxC, 1.0, config.loss.visible_weight) * of_channel_BxC[:, None, :]
    weight = weight * mask.valid[:, :, None] * batch["weight"][:, None, None]
    return jnp.tile(weight, (1, 1, patch))  # entries are time-major: all channels of t0, all of t1, …


# ------------------------------------------------------------------------------------------------------------ the task
@dataclass(frozen=True)
class MaskedPretraining:
    """The Task of a `MaskedPretrainingConfig`."""

    config: MaskedPretrainingConfig
    sharding_rules: ClassVar[Rules] = (
        # a block's two products in a row share one sum over `tensor`: the first split by its outputs, the second by its
        # inputs (Shoeybi et al. 2019, section 3); leading axis: layers
        (r"blocks/.*(qkv|fc1)/kernel$", P(None, "fsdp", "tensor")),
        (r"blocks/.*(qkv|fc1)/bias$", P(None, "tensor")),
        (r"blocks/.*(proj|fc2)/kernel$", P(None, "tensor", "fsdp")),
    )

    def init(self, rng: Array) -> State:
        params = init_params(self.config, rng)
        fresh = optimiser.fresh(params, self.config.optim, self.config.train.steps)
        return replace(fresh, hyper=self.hyper())

    def hyper(self, targets: bool = False) -> dict[str, Array]:
        """What the step is told and compiles nothing anew: the optimiser's, and the seed of the masks.

        With `targets` also which ones are predicted, for a program that is shared by runs of both.
        """
        own = {"seed": jnp.uint32(self.config.seed)}
        own |= {"normalised": jnp.asarray(self.config.loss.target == "patch_normalised")} if targets else {}
        return optimiser.hyper(self.config.optim, self.config.train.steps) | own

    def check(self) -> None:
        platform.check_attention(self.config.model.attention, "model.attention", "--config.model.attention=auto")

    def weights(self) -> Mapping[str, WeightSource]:
        return {}

    def data(self, split: str) -> BatchSpec:
        stream = pipeline.open_stream(self.config.data, split, seed=self.config.seed, training=split == "train")
        channels, expected = stream.element()["signal"].shape[0], self.config.model.channels
        if channels != expected:
            raise UserError(
                f"the montage {self.config.data.montage} has {channels} channels, but model.channels is {expected}; "
                f"set --config.model.channels={channels}, or another montage"
            )
        return BatchSpec(stream, self.config.train.batch_size)

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of one training example, by name; no recording is opened."""
        C, T = self.config.model.channels, self.config.data.samples
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "signal": ((C, T), jnp.float32),
            "valid": ((T,), jnp.float32),
            "channel_ok": ((C,), jnp.float32),
            "index": ((2,), jnp.uint32),
            "weight": ((), jnp.float32),
        }
        if self.config.data.mask_channels:
            shapes |= {"target": ((C, T), jnp.float32), "channel_mask": ((C,), jnp.float32)}
        return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}

    def update(self, state: State, batch: Batch, rng: Array) -> tuple[State, Mapping[str, Any]]:
        def loss(params: PyTree, frozen: PyTree, micro: Batch, rng: Array) -> tuple[Array, Array, dict]:
            return masked_loss(self.config, params, micro, state.hyper["seed"], state.hyper.get("normalised"))

        step = gradient_update(loss, optimiser.build(), microbatches=self.config.train.microbatches)
        return step(state, batch, rng)

    def finish(self, state: State) -> State:
        return state

    def evaluate(self, state: State, source: Stream) -> Metrics:
        """Loss and share explained on held-out windows, the averaged parameters where they are kept.

        Masks are keyed by (seed + 1, index): the same at every evaluation, and others than those of training.
        """
        spec = BatchSpec(source, self.config.train.batch_size)
        alike = dataclasses.replace(self.config, seed=0, optim=OptimConfig(), train=TrainConfig())
        seed = jnp.uint32(self.config.seed + 1)
        return summed(_held_out_metrics(alike), (averaged(state), seed), spec)

    def flops_per_example(self) -> float:
        """Floating-point operations of a training step per window: forward and backward, analytic."""
        return self.config.flops()["train"]

    def image(self, state: State, batch: Batch) -> Any:
        """Signal, what the model sees and what it makes of it, for a few windows and channels."""
        from dreamjax.systems import masked_preview

        return masked_preview.draw(self.config, averaged(state), batch)


@functools.lru_cache(maxsize=8)
def _held_out_metrics(config: MaskedPretrainingConfig) -> Any:
    return jax.jit(lambda given, batch: masked_loss(config, given[0], batch, given[1])[2])
