"""DreamDiffusion, stage B (Bai et al., arXiv 2306.16934, sections 3.2 and 3.3): EEG conditions Stable Diffusion.

A pretrained encoder turns a trial into tokens; linear maps turn those into the U-Net's context, in place of a caption's
text states, and into an embedding that is aligned with the CLIP embedding of the image that was seen. The encoder, the
maps and the U-Net's cross-attention are trained; the rest of Stable Diffusion is frozen.

A share of the examples gets the empty caption's text states instead, so that guidance has an unconditional prediction:
the one that Stable Diffusion itself was trained with.
"""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamjax.errors import UserError
from dreamjax.models import flops
from dreamjax.objectives import masking
from dreamjax.objectives.contrastive import LARGEST, contrastive, unit
from dreamjax.objectives.masking import example_keys
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import sharding
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.parallel.sharding import Rules
from dreamjax.parallel.tree_paths import like, named_leaves
from dreamjax.runs import shapes as architectures
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.systems import dreamdiffusion_export, dreamdiffusion_import, masked_pretraining, opening
from dreamjax.systems.base import GeneratesFromTrials, Loss, Pretrained, Run
from dreamjax.systems.compute import GradientConfig, LayersConfig
from dreamjax.systems.diffusion_base import DiffusionLossConfig, DiffusionSystem, diffusion_loss, merged
from dreamjax.systems.exchange import Exports, Imports
from dreamjax.systems.masked_pretraining import MaskedPretraining, MaskedPretrainingConfig
from dreamjax.targets import features, trials
from dreamjax.targets.trials import TargetConfig
from dreamjax.training.task import Batch, BatchSpec, PyTree, State, WeightSource
from dreamjax.weights import conditioner
from dreamjax.weights.loaded import LoadedNetwork


@dataclass(frozen=True)
class EncoderConfig:
    """The encoder: a run of masked pretraining, whose sizes, montage, rate and scaling are then used here too."""

    path: str = ""  # work directory of a run; empty: `model`, from random numbers
    model: masked_pretraining.MaskedModelConfig = field(default_factory=masked_pretraining.MaskedModelConfig)
    start: Literal["weights", "random"] = "weights"  # random: the run's sizes, but not what it learned
    trainable: bool = True
    cls_token: bool = True  # False: as published, pretrained with one and used without


@dataclass(frozen=True)
class ConditionedModelConfig(LayersConfig):
    """Stable Diffusion, the maps from tokens to its conditions, and how they are computed."""

    path: str = ""  # folder or hub id of a Stable Diffusion pipeline
    variant: str | None = None  # of its weights, such as fp16
    architecture: str = ""  # published sizes by name, without weights: to plan a run, not to train one
    trainable: Literal["cross_attention", "cross_attention_and_norm", "all", "none"] = "cross_attention"  # of the U-Net
    hidden: int = 64  # of the map over tokens
    time_condition: bool = False  # the context is also added to the U-Net's time embedding
    context_tokens: int = 0  # of a model without a text encoder, and so without guidance; 0: as the text encoder has it
    embedding_dim: int = 0  # of the aligned embedding where target.embedding does not tell it
    attention: Literal["auto", "xla", "cudnn", "pallas", "saved"] = "auto"  # type: ignore[assignment]
    remat: Literal["none", "full", "dots", "names"] = "none"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1:
            raise ValueError(f"model.hidden is {self.hidden}, but it must be at least 1")
        if min(self.context_tokens, self.embedding_dim) < 0:
            raise ValueError("model.context_tokens and model.embedding_dim are 0 or more")


@dataclass(frozen=True)
class AlignedLossConfig(DiffusionLossConfig):
    """The weights of the loss: the diffusion loss and the alignment."""

    alignment: Literal["cosine", "infonce", "none"] = "cosine"  # of the embedding with the image's
    alignment_weight: float = 1.0  # in addition to the diffusion loss
    temperature: float = 0.07  # of infonce

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alignment_weight >= 0:
            raise ValueError(f"loss.alignment_weight is {self.alignment_weight}, but it must be 0 or more")
        if not self.temperature >= 0.01:
            raise ValueError(f"loss.temperature is {self.temperature}, but it is at least 0.01")


@dataclass(frozen=True)
class DreamDiffusionConfig(GradientConfig):
    """A run of stage B."""

    system: Literal["dreamdiffusion"] = "dreamdiffusion"
    seed: int = 2022  # of parameters, data order, noise and time steps
    data: DataConfig = field(default_factory=DataConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    model: ConditionedModelConfig = field(default_factory=ConditionedModelConfig)
    loss: AlignedLossConfig = field(default_factory=AlignedLossConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss.alignment == "infonce" and (self.train.microbatches or 1) > 1:
            raise ValueError(
                f"train.microbatches is {self.train.microbatches}, but infonce needs its whole batch at once"
            )


# settings that stage B takes from the encoder's run, as the encoder was trained on this form of the signal
SHARED = ("montage", "mapping", "tile_channels", "samples", "sfreq", "stretch", "scaling", "divide", "clip")


@dataclass(frozen=True)
class DreamDiffusion(DiffusionSystem):
    """The system of stage B."""

    config: DreamDiffusionConfig
    name: ClassVar[str] = "dreamdiffusion"
    Config: ClassVar[type] = DreamDiffusionConfig
    capabilities: ClassVar[tuple[type, ...]] = (GeneratesFromTrials, Pretrained, Exports, Imports)
    sharding_rules: ClassVar[Rules] = MaskedPretraining.sharding_rules
    encoder_key: ClassVar[str] = "encoder.path"
    shared_data: ClassVar[tuple[str, ...]] = SHARED

    # --------------------------------------------------------------------------------------------------- the networks
    @functools.cached_property
    def encoder(self) -> MaskedPretrainingConfig:
        """Return the encoder without its decoder, on the signal that it was pretrained on."""
        settings, data = self.config.encoder, self.config.data
        sizes = settings.model
        if settings.path:
            pretrained = opening.config_of(settings.path)
            if not isinstance(pretrained, MaskedPretrainingConfig):
                raise UserError(f"{settings.path} is a run of {pretrained.system}, not of masked pretraining")
            sizes = pretrained.model
            data = dataclasses.replace(data, **{name: getattr(pretrained.data, name) for name in SHARED})
        changed = {name: getattr(self.config.model, name) for name in ("dtype", "scan_layers", "remat")}
        changed |= {"decoder_depth": 0, "interpolation": "none", "attention": "auto"}
        changed["cls_token"] = sizes.cls_token and settings.cls_token
        try:
            return MaskedPretrainingConfig(data=data, model=dataclasses.replace(sizes, **changed))
        except ValueError as problem:  # the two do not fit
            raise UserError(str(problem)) from problem

    @functools.cached_property
    def embedding_dim(self) -> int:
        """Return the width of the images' embeddings, or 0 where nothing is aligned with them."""
        model, embedding = self.config.model, self.config.target.embedding
        if self.config.loss.alignment == "none":
            return 0
        if not embedding.path and model.embedding_dim:
            return model.embedding_dim
        if not embedding.path and model.architecture:
            return architectures.get(model.architecture)["image_encoder"]["projection_dim"]
        if not embedding.path:
            raise UserError(
                "target.embedding.path is empty; name a CLIP vision model to align with, or set loss.alignment=none"
            )
        shape = features.shape(embedding)
        if len(shape) != 1:
            raise UserError("target.embedding.pooling is tokens, but a trial is aligned with one vector; pool them")
        return shape[0]

    @functools.cached_property
    def conditioner(self) -> LoadedNetwork:
        """Return the maps from tokens to the U-Net's conditions, with only the shapes of their parameters."""
        m, (tokens, width) = self.config.model, self.context_shape
        arguments = {
            "tokens": self.encoder.patches,
            "dim": self.encoder.model.dim,
            "context_tokens": tokens,
            "context_dim": width,
            "hidden": m.hidden,
            "embedding_dim": self.embedding_dim,
            "time_dim": 4 * self.unet.arguments["widths"][0] if m.time_condition else 0,
            "dtype": jnp.dtype(m.dtype),
        }
        network = conditioner.NETWORK
        return LoadedNetwork(network, arguments, network.shapes(arguments))

    @property
    def guided(self) -> bool:
        """Return whether the model has an unconditional prediction: that of the empty caption."""
        return not self.config.model.context_tokens

    @property
    def context_shape(self) -> tuple[int, int]:
        """Return (S, D) of the context: those of the text states that it replaces."""
        given = self.config.model.context_tokens
        return (given, self.unet.arguments["context_dim"]) if given else super().context_shape

    # ------------------------------------------------------------------------------------------------------- the task
    def split(self, params: PyTree) -> tuple[PyTree, PyTree]:
        """Return (trained, frozen) of all parameters: {"encoder", "conditioner", "unet", …}."""
        trained, frozen = ({"unet": part} if part else {} for part in self.split_unet(params["unet"]))
        trained = {name: part for name, part in params.items() if name != "unet"} | trained
        if not self.config.encoder.trainable:
            frozen["encoder"] = trained.pop("encoder")
        return trained, frozen

    def unet_of(self, params: PyTree) -> PyTree:
        return params.get("unet", {})

    def init(self, rng: Array) -> State:
        keys = jax.random.split(rng, 3)
        params = {
            "encoder": masked_pretraining.init_params(self.encoder, keys[0]),
            "conditioner": self.conditioner.network.init(self.conditioner.arguments, keys[1]),
            "unet": self.unet.network.init(self.unet.arguments, keys[2]),
        }
        if self.config.loss.alignment == "infonce":
            params["logit_scale"] = jnp.asarray(-jnp.log(self.config.loss.temperature), jnp.float32)
        params, frozen = self.split(params)
        nothing = {"nothing": jnp.zeros(self.context_shape, jnp.float32)} if self.guided else {}
        return self.fresh(params, frozen=frozen | nothing)

    def check(self) -> None:
        self.unet, self.encoder  # noqa: B018 - their configs are read and checked
        if not self.config.model.path:
            raise UserError(
                "model.path is empty: a run is trained onto a Stable Diffusion folder, not onto sizes alone"
            )
        if not self.guided and self.config.loss.drop_condition:
            raise UserError(
                "loss.drop_condition shows the empty caption, which a model with model.context_tokens has not: set it "
                "to 0, or name a folder with a text encoder and leave model.context_tokens out"
            )
        self.config.model.check_device()

    def weights(self) -> Mapping[str, WeightSource]:
        if not self.config.model.path:
            return {}
        trained = [f"{group}/unet" for group in self.groups] if self.config.model.trainable != "none" else []
        left = ["frozen/unet"] if self.config.model.trainable != "all" else []
        sources: dict[str, WeightSource] = dict.fromkeys([*trained, *left], self.unet_weights())
        if self.guided:
            sources["frozen/nothing"] = self.empty_caption
        if self.config.encoder.path and self.config.encoder.start == "weights":
            trained = [f"{group}/encoder" for group in self.groups]
            places = trained if self.config.encoder.trainable else ["frozen/encoder"]
            sources |= dict.fromkeys(places, self.pretrained)
        return sources

    def empty_caption(self, abstract: PyTree) -> PyTree:
        """Return the text states of the empty caption; a `WeightSource`."""
        states = features.text_states(self.config.target.bank_root, [""], self.parts, meshes.make(MeshConfig()))
        return jax.device_put(jnp.asarray(states[0]), abstract.sharding)

    def pretrained(self, abstract: PyTree) -> PyTree:
        """Return the encoder of masked pretraining, without the tensors of its decoder; a `WeightSource`."""
        run = opening.open_run(self.config.encoder.path)
        values = named_leaves(run.params)
        return like(
            abstract, {p: jax.device_put(values[p], leaf.sharding) for p, leaf in named_leaves(abstract).items()}
        )

    def data(self, split: str) -> BatchSpec:
        target, seed = self.config.target, self.config.seed
        stream = trials.open_stream(self.encoder.data, target, split, self.parts, seed=seed)
        channels, expected = stream.element()["signal"].shape[0], self.encoder.model.channels
        if channels != expected:
            raise UserError(f"the trials have {channels} channels, but the encoder takes {expected}")
        return self.spec(stream)

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        samples, latent = self.encoder.data.samples, self.latent_shape(self.config.target.resolution)
        shapes = {"signal": (self.encoder.model.channels, samples), "valid": (samples,), "weight": ()}
        shapes |= {"mean": latent, "log_variance": latent, "embedding": (max(self.embedding_dim, 1),)}
        example = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
        return example | {"image": jax.ShapeDtypeStruct((), jnp.int32), "index": jax.ShapeDtypeStruct((2,), jnp.uint32)}

    # ------------------------------------------------------------------------------------------------- pure functions
    def encode(self, params: PyTree, frozen: PyTree, batch: Batch) -> tuple[Array, Array | None]:
        """Return (context [B, S, D], embedding [B, P] or None) of a batch of `signal` and `valid`."""
        encoder = params["encoder"] if "encoder" in params else frozen["encoder"]
        tokens = masked_pretraining.features(self.encoder, encoder, batch["signal"], batch["valid"])
        ok = masking.patch_valid(batch["valid"], self.encoder.model.patch)
        maps = self.conditioner.bound(params["conditioner"])
        return maps.context(tokens, ok), maps.embed(tokens, ok) if maps.has_embedding else None

    def time_offset(self, params: PyTree, context: Float[Array, "B S D"]) -> dict[str, Array]:
        """Return `time_offset`, where the model has one."""
        maps = self.conditioner.bound(params["conditioner"])
        return {"time_offset": maps.time_offset(context)} if maps.has_time else {}

    def loss(self, params: PyTree, frozen: PyTree, batch: Batch, seed: Array | int, training: bool) -> Loss:
        """Return the diffusion loss plus the alignment; for held-out trials no condition is dropped."""
        config, weight = self.config.loss, batch["weight"]
        context, embedding = self.encode(params, frozen, batch)
        if self.guided and training:
            keys = example_keys(seed, "condition", batch["index"])
            dropped = jax.vmap(jax.random.uniform)(keys) < config.drop_condition
            context = jnp.where(dropped[:, None, None], frozen["nothing"], context)
        offset = self.time_offset(params, context).get("time_offset")
        unet = self.unet.bound(merged(self.unet_of(params), frozen.get("unet", {})))

        def predict(x: Array, t: Array, context: Array) -> Array:
            return unet(x, t, context, time_offset_BxE=offset)

        total, weights, metrics = diffusion_loss(
            self.schedule, predict, {**batch, "context": context}, seed, self.scale, config.min_snr_gamma
        )
        metrics = metrics | {"diffusion": (total, weights)}
        if embedding is None:
            return total, weights, metrics
        cosine = (unit(embedding) * unit(batch["embedding"])).sum(-1)
        metrics["cosine"] = ((cosine * weight).sum(), weights)
        aligned = ((1 - cosine) * weight).sum()
        if config.alignment == "infonce":
            names = ("eeg_to_image", "image_to_eeg")
            scale = jnp.minimum(params["logit_scale"], LARGEST)
            aligned, _, similarities = contrastive(embedding, batch["embedding"], scale, batch["image"], weight, names)
            metrics |= similarities
        return total + config.alignment_weight * aligned, weights, metrics

    @property
    def microbatches(self) -> int | None:
        return 1 if self.config.loss.alignment == "infonce" else self.config.train.microbatches

    def flops(self) -> float | None:
        """Return the operations, forward and backward, of U-Net, encoder and maps, as if all of them were trained."""
        if not (self.config.model.path or self.config.model.architecture):
            return None
        h, w, _ = self.latent_shape(self.config.target.resolution)
        encoder = self.encoder.flops()["features"] if self.config.encoder.trainable else 0.0
        tokens, hidden = self.encoder.patches, self.config.model.hidden
        context, width = self.context_shape
        maps = 2.0 * (tokens * hidden + hidden * context) * self.encoder.model.dim
        maps += 2.0 * context * self.encoder.model.dim * width + 2.0 * self.encoder.model.dim * self.embedding_dim
        return 3 * (flops.unet(self.unet.arguments, h, w, context) + encoder + maps)

    # ------------------------------------------------------------------------------------------------- a trained run
    @property
    def signal(self) -> DataConfig:
        return self.encoder.data

    @property
    def target(self) -> TargetConfig:
        return self.config.target

    @property
    def encoder_run(self) -> str:
        return self.config.encoder.path if self.config.encoder.start == "weights" else ""

    def condition(self, params: PyTree, frozen: PyTree, batch: Batch) -> dict[str, Array]:
        context, embedding = self.encode(params, frozen, batch)
        conditions = {"context": context, **self.time_offset(params, context)}
        return conditions if embedding is None else {**conditions, "embedding": embedding}

    def unconditional(self, params: PyTree, frozen: PyTree) -> dict[str, Array]:
        if not self.guided:
            raise UserError("this model was trained without an unconditional branch: add --guidance 1")
        nothing = frozen["nothing"][None]
        return {"context": nothing, **self.time_offset(params, nothing)}

    def conditioning(self, run: Run, mesh: jax.sharding.Mesh) -> tuple[PyTree, PyTree]:
        params = {name: part for name, part in run.params.items() if name != "unet"}
        shapes = jax.eval_shape(self.init, jax.random.key(0)).frozen
        shapes = {name: part for name, part in shapes.items() if name != "unet"}
        places, weights = sharding.shardings(shapes, mesh), self.weights()
        abstract = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, places)
        frozen = {name: weights[f"frozen/{name}"](part) for name, part in abstract.items()}
        return jax.device_put(params, sharding.shardings(params, mesh)), frozen

    export = dreamdiffusion_export.export
    imported = classmethod(dreamdiffusion_import.imported)


SYSTEM = DreamDiffusion
