"""Masked-signal pretraining (DreamDiffusion, arXiv 2306.16934, stage A; MinD-Vis, arXiv 2211.06956, section 3.1).

A window of all channels is cut into patches of time, some are hidden, a vision transformer encodes the visible ones and
a small decoder predicts the hidden ones. The encoder is used afterwards: `features`.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from dreamjax.errors import UserError
from dreamjax.models import flops
from dreamjax.models.masked_autoencoder import MaskedAutoencoder, patchify, unpatchify
from dreamjax.objectives import masking
from dreamjax.objectives.masking import MaskConfig
from dreamjax.objectives.reconstruction_loss import ReconstructionConfig, reconstruction
from dreamjax.parallel import environment
from dreamjax.parallel.sharding import Rules
from dreamjax.signals.datasets import pipeline
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.systems import masked_torch, preview
from dreamjax.systems.base import Embedding, Embeds, GradientSystem, Loss, Plans, Reconstructs, Vectorises
from dreamjax.systems.compute import GradientConfig, NamedLayersConfig
from dreamjax.systems.exchange import Exports, Format, Imports
from dreamjax.training import optimiser
from dreamjax.training.held_out import averaged, summed
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, BatchSpec, Metrics, PyTree, State, Stream, replace
from dreamjax.training.train_config import TrainConfig
from dreamjax.training.update import gradient_update
from dreamjax.typing import JsonDict
from dreamjax.weights import masked_autoencoder as names
from dreamjax.weights import networks


@dataclass(frozen=True)
class MaskedModelConfig(NamedLayersConfig):
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
    cls_token: bool = True  # whether a cls token goes ahead of the patches
    positions: Literal["sincos", "learned"] = "sincos"  # learned: a parameter for data.samples / patch tokens
    interpolation: Literal["none", "gaussian"] = "none"  # gaussian: predict the residual of a learned interpolation
    spectrum_points: int = 128  # … whose log power spectrum has this many points from zero frequency to Nyquist

    def __post_init__(self) -> None:
        super().__post_init__()
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


@dataclass(frozen=True)
class MaskedPretrainingConfig(GradientConfig):
    """A run of masked-signal pretraining."""

    system: Literal["masked_pretraining"] = "masked_pretraining"
    seed: int = 2022  # of parameters, data order, crops and masks
    data: DataConfig = field(default_factory=DataConfig)
    model: MaskedModelConfig = field(default_factory=MaskedModelConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    loss: ReconstructionConfig = field(default_factory=ReconstructionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
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
        """Return the number of tokens of a window."""
        return self.data.samples // self.model.patch

    def flops(self) -> dict[str, float]:
        """Return analytic operations per full window, by part; see `models.flops`."""
        return flops.masked_autoencoder(self.model, self.patches, self.mask.mean_visible(self.patches))


# --------------------------------------------------------------------------------------------------- pure functions
def _arguments(config: MaskedPretrainingConfig) -> JsonDict:
    """Return the arguments of the network."""
    model = dataclasses.asdict(config.model)
    learned = config.patches if model.pop("positions") == "learned" else 0
    return model | {"learned_positions": learned, "dtype": jnp.dtype(config.model.dtype)}


NETWORK = networks.Network(MaskedAutoencoder, lambda config, source: _arguments(config), names.TABLE)


def init_params(config: MaskedPretrainingConfig, rng: Array) -> PyTree:
    """Return fresh parameters: a nested dict of float32 arrays; stacked layers have a leading axis."""
    return NETWORK.init(_arguments(config), rng)


def bind(config: MaskedPretrainingConfig, params: PyTree) -> MaskedAutoencoder:
    """Return the network around given parameters; free of cost, also under jit.

    Without a GPU, attention that was trained with cuDNN is computed by the default implementation.
    """
    without = config.model.attention == "cudnn" and environment.target_platform() != "gpu"
    return NETWORK.bind(_arguments(config) | ({"attention": "auto"} if without else {}), params)


def features(
    config: MaskedPretrainingConfig,
    params: PyTree,
    signal_BxCxT: Float[Array, "B C T"],
    valid_BxT: Float[Array, "B T"] | None = None,
) -> Float[Array, "B N D"]:
    """Return the encoder's tokens after the final norm, nothing hidden, the cls token left out.

    `signal_BxCxT`: in the network's units, as the data pipeline scales it; `dreamjax.load(…).encode` takes µV.
    """
    patches = patchify(signal_BxCxT, config.model.patch)
    ok = None if valid_BxT is None else masking.patch_valid(valid_BxT, config.model.patch)
    tokens = bind(config, params).encode(patches, None, ok)
    return tokens[:, int(config.model.cls_token) :].astype(jnp.float32)


def pooled(tokens_BxNxD: Float[Array, "B N D"], valid_BxN: Bool[Array, "B N"] | None = None) -> Float[Array, "B D"]:
    """Return one vector per window: the mean of its tokens, padding left out."""
    if valid_BxN is None:
        return tokens_BxNxD.mean(1)
    weight = valid_BxN[:, :, None].astype(tokens_BxNxD.dtype)
    return (tokens_BxNxD * weight).sum(1) / jnp.maximum(weight.sum(1), 1)


def _predict(
    config: MaskedPretrainingConfig, params: PyTree, signal_BxCxT: Array, mask: masking.Mask, slots: int, varies: bool
) -> Float[Array, "B N P"]:
    if not config.model.decoder_depth:
        raise UserError(
            "model.decoder_depth is 0: an encoder alone gives features, but reconstructs and trains nothing"
        )
    ok, valid = (mask.slots_ok(slots), mask.valid) if varies else (None, None)
    return bind(config, params)(patchify(signal_BxCxT, config.model.patch), mask.order, slots, ok, valid)


def masked_loss(
    config: MaskedPretrainingConfig, params: PyTree, batch: Batch, seed: int | Array, normalised: Array | None = None
) -> Loss:
    """Return `(sum, weight, metrics)` of a batch whose masks are keyed by (seed, batch["index"]).

    `normalised`: of targets, in place of `config.loss.target`, for a program that trains either.
    """
    patch = config.model.patch
    signal, target = batch["signal"], batch.get("target", batch["signal"])
    mask = masking.draw(config.mask, seed, batch["index"], masking.patch_valid(batch["valid"], patch))
    if "channel_mask" in batch:  # examples that hide time see all channels
        signal = jnp.where(mask.channel[:, None, None], signal, target)
    slots = config.mask.visible_slots(signal.shape[2] // patch)
    prediction = _predict(config, params, signal, mask, slots, config.mask.varies)
    return reconstruction(config.loss, prediction, patchify(target, patch), _weights(config, mask, batch), normalised)


def _weights(config: MaskedPretrainingConfig, mask: masking.Mask, batch: Batch) -> Float[Array, "B N P"]:
    """Return the loss's weight of every entry: hidden or visible, real channel or interpolated, padding or not."""
    hidden_BxNxC = jnp.broadcast_to(mask.hidden[:, :, None], (*mask.hidden.shape, batch["signal"].shape[1]))
    if "channel_mask" in batch:
        hidden_BxNxC = jnp.where(mask.channel[:, None, None], batch["channel_mask"][:, None, :] > 0, hidden_BxNxC)
    of_channel_BxC = jnp.where(batch["channel_ok"] > 0, 1.0, config.loss.interpolated_weight)
    weight = jnp.where(hidden_BxNxC, 1.0, config.loss.visible_weight) * of_channel_BxC[:, None, :]
    weight = weight * mask.valid[:, :, None] * batch["weight"][:, None, None]
    return jnp.tile(weight, (1, 1, config.model.patch))  # entries are time-major: all channels of t0, all of t1, …


# ------------------------------------------------------------------------------------------------------------ the task
@dataclass(frozen=True)
class MaskedPretraining(GradientSystem):
    """The system of masked pretraining."""

    config: MaskedPretrainingConfig
    name: ClassVar[str] = "masked_pretraining"
    Config: ClassVar[type] = MaskedPretrainingConfig
    capabilities: ClassVar[tuple[type, ...]] = (Reconstructs, Embeds, Plans, Vectorises, Exports, Imports)
    formats: ClassVar[tuple[Format, ...]] = ("torch",)
    sharding_rules: ClassVar[Rules] = (
        # a block's two products in a row share one sum over `tensor`: the first split by its outputs, the second by its
        # inputs (Shoeybi et al. 2019, section 3); leading axis: layers
        (r"blocks/.*(qkv|fc1)/kernel$", P(None, "fsdp", "tensor")),
        (r"blocks/.*(qkv|fc1)/bias$", P(None, "tensor")),
        (r"blocks/.*(proj|fc2)/kernel$", P(None, "tensor", "fsdp")),
    )

    def init(self, rng: Array) -> State:
        return replace(self.fresh(init_params(self.config, rng)), hyper=self.hyper())

    def hyper(self, targets: bool = False) -> dict[str, Array]:
        """Return the arguments of the step, which need no recompilation: the optimiser's, and the seed of the masks.

        With `targets` also which targets are predicted, for a program that runs of both kinds share.
        """
        arguments = {"seed": jnp.uint32(self.config.seed)}
        if targets:
            arguments["normalised"] = jnp.asarray(self.config.loss.target == "patch_normalised")
        return optimiser.hyper(self.config.optim, self.config.train.steps) | arguments

    def check(self) -> None:
        self.config.model.check_device()

    def data(self, split: str) -> BatchSpec:
        stream = pipeline.open_stream(self.config.data, split, seed=self.config.seed, training=split == "train")
        channels, expected = stream.element()["signal"].shape[0], self.config.model.channels
        if channels != expected:
            raise UserError(
                f"the montage {self.config.data.montage} has {channels} channels, but model.channels is {expected}; "
                f"set --config.model.channels={channels}, or another montage"
            )
        return self.spec(stream)

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Return shapes and types of one training example, by name; no recording is opened."""
        C, T = self.config.model.channels, self.config.data.samples
        shapes: dict[str, tuple[int, ...]] = {"signal": (C, T), "valid": (T,), "channel_ok": (C,), "weight": ()}
        if self.config.data.mask_channels:
            shapes |= {"target": (C, T), "channel_mask": (C,)}
        example = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
        return example | {"index": jax.ShapeDtypeStruct((2,), jnp.uint32)}

    def update(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        def loss(params: PyTree, frozen: PyTree, micro: Batch) -> Loss:
            return masked_loss(self.config, params, micro, state.hyper["seed"], state.hyper.get("normalised"))

        return gradient_update(loss, optimiser.build(), microbatches=self.microbatches)(state, batch)

    def evaluate(self, state: State, source: Stream) -> Metrics:
        """Return loss and share explained on held-out windows, of averaged parameters where they are kept.

        Masks are keyed by (seed + 1, index): the same at every evaluation, and different from those of training.
        """
        alike = dataclasses.replace(self.config, seed=0, optim=OptimConfig(), train=TrainConfig())
        seed = jnp.uint32(self.config.seed + 1)
        return summed(_held_out_metrics(alike), (averaged(state), seed), self.spec(source))

    def preview(self, state: State, batch: Batch) -> Any:
        """Draw signal, visible part and reconstruction; None for normalised targets, which have lost their scale."""
        config = self.config
        if config.loss.target != "raw":
            return None
        signal, valid = np.asarray(batch["signal"]), np.asarray(batch["valid"])
        gain, offset = (np.asarray(batch[name])[:, :, None] for name in ("gain", "offset"))
        patch_valid = masking.patch_valid(jnp.asarray(valid), config.model.patch)
        mask = masking.draw(config.mask, config.seed + 1, jnp.asarray(batch["index"]), patch_valid)
        hidden = np.asarray(mask.hidden)
        made = preview.computed(self.reconstruct, averaged(state), signal, hidden, valid)
        shown = np.repeat(hidden, config.model.patch, axis=1)
        return preview.masked_windows(signal * gain + offset, made * gain + offset, shown, config.data.sfreq)

    # ------------------------------------------------------------------------------------------------- capabilities
    @property
    def signal(self) -> DataConfig:
        return self.config.data

    @property
    def patch(self) -> int:
        return self.config.model.patch

    def reconstruct(
        self,
        params: PyTree,
        signal: Float[Array, "B C T"],
        hidden: Bool[Array, "B N"],
        valid: Float[Array, "B T"] | None = None,
    ) -> Float[Array, "B C T"]:
        """Return the decoder's signal, in the scaled units of the input, at every patch.

        Raise UserError for a model of normalised targets, whose predictions have lost their scale.
        """
        if self.config.loss.target != "raw":
            raise UserError(
                "a model trained on patch_normalised targets predicts no signal; train with loss.target=raw"
            )
        mask = masking.of_hidden(hidden, None if valid is None else masking.patch_valid(valid, self.patch))
        patches = _predict(self.config, params, signal, mask, hidden.shape[1], varies=True)
        return unpatchify(patches, self.config.model.channels)

    def embed(
        self, params: PyTree, signal: Float[Array, "B C T"], valid: Float[Array, "B T"] | None = None
    ) -> Embedding:
        tokens = features(self.config, params, signal, valid)
        whole = None if valid is None else valid.reshape(valid.shape[0], -1, self.patch).min(axis=2) > 0
        return Embedding(tokens, pooled(tokens, whole))

    def flops(self) -> float:
        return self.config.flops()["train"]

    def gflop(self) -> dict[str, float]:
        return {part: round(flop / 1e9, 4) for part, flop in self.config.flops().items()}

    def activation_bytes(self, params: PyTree) -> float:
        """Return the residuals of the loss's vjp of two windows less those of one, by shape."""

        def kept(windows: int) -> int:
            shapes = {name: jax.ShapeDtypeStruct((windows, *x.shape), x.dtype) for name, x in self.example().items()}

            def residuals(params: PyTree, batch: Batch) -> Any:
                return jax.vjp(lambda p: masked_loss(self.config, p, batch, self.config.seed)[0], params)[1]

            leaves = jax.tree.leaves(jax.eval_shape(residuals, params, shapes))
            return sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in leaves)

        return kept(2) - kept(1)

    def summary(self, params: PyTree) -> JsonDict:
        """Return parameters by part, including the fixed positions as in published counts, and shapes by name."""
        config, model = self.config, self.config.model
        parts = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
        rows = config.patches + 1
        fixed = 0 if "pos_embed" in params else rows * model.dim
        decoder_fixed = rows * model.decoder_dim if model.decoder_depth else 0
        encoder = ("patch_embed", "cls_token", "pos_embed", "blocks", "norm")
        return {
            "parameters": {
                "parts": parts,
                "fixed_positions": {"encoder": fixed, "decoder": decoder_fixed},
                "encoder": sum(parts.get(name, 0) for name in encoder) + fixed,
                "whole": sum(parts.values()) + fixed + decoder_fixed,
                "trained": sum(parts.values()),
            },
            "shapes": {
                "signal": [model.channels, config.data.samples],
                "sfreq": config.data.sfreq,
                "seconds": config.data.samples / config.data.sfreq,
                "patch": [model.patch, model.channels],
                "tokens": config.patches,
                "encoder_tokens": 1 + config.mask.visible_slots(config.patches),
                "features": [config.patches, model.dim],
                "prediction": [config.patches, model.patch * model.channels],
            },
        }

    export = masked_torch.export
    imported = classmethod(masked_torch.imported)


SYSTEM = MaskedPretraining


@functools.lru_cache(maxsize=8)
def _held_out_metrics(config: MaskedPretrainingConfig) -> jax.stages.Wrapped:
    return jax.jit(lambda given, batch: masked_loss(config, given[0], batch, given[1])[2])
