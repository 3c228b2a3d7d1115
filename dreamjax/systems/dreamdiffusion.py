"""DreamDiffusion, stage B (Bai et al., arXiv 2306.16934, sections 3.2 and 3.3): EEG conditions Stable Diffusion.

A pretrained encoder turns a trial into tokens; linear maps turn those into the U-Net's context, in place of a caption's
text states, and into an embedding that is aligned with the CLIP embedding of the image that was seen. Trained are the
encoder, the maps and the U-Net's cross-attention; all else of Stable Diffusion stays as it was.

A share of the examples sees the empty caption's text states instead, so that guidance has a prediction to lead away
from: the one that Stable Diffusion was itself trained with.
"""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.models import flops
from dreamjax.models.conditioner import Conditioner
from dreamjax.models.keys import Keys
from dreamjax.objectives import masking
from dreamjax.objectives.contrastive import LARGEST, contrastive, unit
from dreamjax.objectives.masking import example_keys
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import sharding
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.parallel.sharding import Rules
from dreamjax.parallel.tree_paths import like
from dreamjax.runs import latent_diffusion
from dreamjax.runs import shapes as architectures
from dreamjax.runs.components import Components
from dreamjax.runs.latent_diffusion import LatentDiffusion
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.systems import masked_pretraining, opening, text_to_image
from dreamjax.systems.base import (
    Checkpoint,
    Exported,
    Exports,
    Format,
    GeneratesFromTrials,
    GradientSystem,
    Imported,
    ImportOptions,
    Imports,
    Loss,
    Pretrained,
    Run,
)
from dreamjax.systems.compute import LayersConfig
from dreamjax.systems.masked_pretraining import MaskedPretraining, MaskedPretrainingConfig
from dreamjax.systems.text_to_image import diffusion_loss, merged
from dreamjax.targets import features, trials
from dreamjax.targets.trials import TargetConfig, TrialExamples
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, BatchSpec, PyTree, State, WeightSource
from dreamjax.training.train_config import TrainConfig
from dreamjax.typing import JsonDict
from dreamjax.weights import loaded, networks, streaming
from dreamjax.weights.loaded import LoadedNetwork
from dreamjax.weights.table import flatten, keep

# what is trained of a U-Net, by the name of the choice: a regular expression over its parameters' paths
TRAINABLE = {
    "cross_attention": r"(.*/)?attn2/.*",
    "cross_attention_and_norm": r"(.*/)?(attn2|blocks/norm2)/.*",
    "all": r".*",
    "none": r"(?!)",  # the encoder and the maps alone
}


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
    """Stable Diffusion, the maps from tokens to it, and how all is computed."""

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
class AlignedLossConfig(text_to_image.DiffusionLossConfig):
    """What is weighed how: the diffusion loss of `text_to_image`, and the alignment."""

    alignment: Literal["cosine", "infonce", "none"] = "cosine"  # of the embedding with the image's
    alignment_weight: float = 1.0  # beside the diffusion loss
    temperature: float = 0.07  # of infonce

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alignment_weight >= 0:
            raise ValueError(f"loss.alignment_weight is {self.alignment_weight}, but it must be 0 or more")
        if not self.temperature >= 0.01:
            raise ValueError(f"loss.temperature is {self.temperature}, but it is at least 0.01")


@dataclass(frozen=True)
class DreamDiffusionConfig:
    """A run of stage B."""

    system: Literal["dreamdiffusion"] = "dreamdiffusion"
    seed: int = 2022  # of parameters, data order, noise and time steps
    data: DataConfig = field(default_factory=DataConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    model: ConditionedModelConfig = field(default_factory=ConditionedModelConfig)
    loss: AlignedLossConfig = field(default_factory=AlignedLossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        configs.check_seed("seed", self.seed)
        if self.loss.alignment == "infonce" and (self.train.microbatches or 1) > 1:
            raise ValueError(
                f"train.microbatches is {self.train.microbatches}, but infonce needs its whole batch at once"
            )


# what stage B takes over from the encoder's run: the encoder knows its signal in no other form
SHARED = ("montage", "mapping", "tile_channels", "samples", "sfreq", "stretch", "scaling", "divide", "clip")


@dataclass(frozen=True)
class DreamDiffusion(GradientSystem):
    """Stage B as a system."""

    config: DreamDiffusionConfig
    name: ClassVar[str] = "dreamdiffusion"
    Config: ClassVar[type] = DreamDiffusionConfig
    capabilities: ClassVar[tuple[type, ...]] = (GeneratesFromTrials, Pretrained, Exports, Imports)
    formats: ClassVar[tuple[Format, ...]] = ("diffusers",)
    sharding_rules: ClassVar[Rules] = MaskedPretraining.sharding_rules
    encoder_key: ClassVar[str] = "encoder.path"
    shared_data: ClassVar[tuple[str, ...]] = SHARED

    # --------------------------------------------------------------------------------------------------- the networks
    @functools.cached_property
    def encoder(self) -> MaskedPretrainingConfig:
        """The encoder without its decoder, on the signal that it was pretrained on."""
        settings = self.config.encoder
        pretrained = None
        if settings.path:
            pretrained = opening.config_of(settings.path)
            if not isinstance(pretrained, MaskedPretrainingConfig):
                raise UserError(f"{settings.path} is a run of {pretrained.system}, not of masked pretraining")
        sizes = pretrained.model if pretrained else settings.model
        model = dataclasses.replace(
            sizes,
            cls_token=sizes.cls_token and settings.cls_token,
            decoder_depth=0,
            interpolation="none",
            attention="auto",
            **{name: getattr(self.config.model, name) for name in ("dtype", "scan_layers", "remat")},
        )
        data = self.config.data
        if pretrained:
            data = dataclasses.replace(data, **{name: getattr(pretrained.data, name) for name in SHARED})
        try:
            return MaskedPretrainingConfig(data=data, model=model)
        except ValueError as problem:  # the two do not fit
            raise UserError(str(problem)) from problem

    @functools.cached_property
    def parts(self) -> Components:
        """Stable Diffusion's parts. Raises UserError for what is not there."""
        m = self.config.model
        if not m.path and not m.architecture:
            raise UserError("model.path is empty; name a Stable Diffusion folder, or a run's export")
        return Components.of(m.path, variant=m.variant, architecture=m.architecture, parts={})

    @functools.cached_property
    def unet(self) -> tuple[networks.Network, JsonDict]:
        """The U-Net and its arguments."""
        m, source = self.config.model, self.parts.source("unet")
        config = self.parts.config("unet")
        network = networks.of({"_class_name": "UNet2DConditionModel"} | config, source)
        return network, network.arguments(config, source) | m.arguments()

    @functools.cached_property
    def embedding_dim(self) -> int:
        """Width of the images' embeddings, or 0 where nothing is aligned with them."""
        if self.config.loss.alignment == "none":
            return 0
        if not self.config.target.embedding.path and self.config.model.embedding_dim:
            return self.config.model.embedding_dim
        if not self.config.target.embedding.path and self.config.model.architecture:
            return architectures.get(self.config.model.architecture)["image_encoder"]["projection_dim"]
        if not self.config.target.embedding.path:
            raise UserError(
                "target.embedding.path is empty; name a CLIP vision model to align with, or set loss.alignment=none"
            )
        shape = features.shape(self.config.target.embedding)
        if len(shape) != 1:
            raise UserError("target.embedding.pooling is tokens, but a trial is aligned with one vector; pool them")
        return shape[0]

    @functools.cached_property
    def conditioner_graph(self) -> Any:
        abstract = nnx.eval_shape(lambda: self.new_conditioner(jax.random.key(0)))
        return nnx.split(abstract, nnx.Param)[0]

    def new_conditioner(self, rng: Array) -> Conditioner:
        """The maps with fresh parameters."""
        m, encoder, arguments = self.config.model, self.encoder, self.unet[1]
        return Conditioner(
            tokens=encoder.patches,
            dim=encoder.model.dim,
            context_tokens=self.context_shape[0],
            context_dim=self.context_shape[1],
            hidden=m.hidden,
            embedding_dim=self.embedding_dim,
            time_dim=4 * arguments["widths"][0] if m.time_condition else 0,
            dtype=jnp.dtype(m.dtype),
            rngs=Keys(rng),
        )

    @functools.cached_property
    def schedule(self) -> Any:
        return latent_diffusion.schedule_of(self.parts.config("scheduler"), self.parts.source("scheduler"))

    @functools.cached_property
    def scale(self) -> float:
        return latent_diffusion.scale_of(self.parts)

    # ------------------------------------------------------------------------------------------------------- the task
    def split(self, params: PyTree) -> tuple[PyTree, PyTree]:
        """(what is trained, what is frozen) of all parameters: {"encoder", "conditioner", "unet", …}."""
        pattern = TRAINABLE[self.config.model.trainable]
        trained = params | {"unet": keep(params["unet"], pattern)}
        if not trained["unet"]:
            del trained["unet"]
        frozen = {"unet": keep(params["unet"], pattern, but=True)} if self.config.model.trainable != "all" else {}
        if not self.config.encoder.trainable:
            frozen["encoder"] = trained.pop("encoder")
        return trained, frozen

    def init(self, rng: Array) -> State:
        network, arguments = self.unet
        keys = jax.random.split(rng, 3)
        params = {
            "encoder": masked_pretraining.init_params(self.encoder, keys[0]),
            "conditioner": nnx.to_pure_dict(nnx.state(self.new_conditioner(keys[1]), nnx.Param)),
            "unet": network.init(arguments, keys[2]),
        }
        if self.config.loss.alignment == "infonce":
            params["logit_scale"] = jnp.asarray(-jnp.log(self.config.loss.temperature), jnp.float32)
        params, frozen = self.split(params)
        nothing = {"nothing": jnp.zeros(self.context_shape, jnp.float32)} if self.guided else {}
        return self.fresh(params, frozen=frozen | nothing)

    @property
    def guided(self) -> bool:
        """Whether there is a prediction that guidance leads away from: that of the empty caption's text states."""
        return not self.config.model.context_tokens

    @property
    def context_shape(self) -> tuple[int, int]:
        """(S, D) of the context: that of the text states in whose place it comes."""
        if not self.guided:
            return self.config.model.context_tokens, self.unet[1]["context_dim"]
        text = self.parts.config("text_encoder")
        return int(text.get("max_position_embeddings", 77)), self.unet[1]["context_dim"]

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
        network, arguments = self.unet
        fill = streaming.source(
            network.table, self.parts.tensors("unet"), str(self.parts.path("unet")), whole=network.shapes(arguments)
        )
        groups = ["params", *(["ema"] if self.config.optim.ema_decay is not None else [])]
        left = ["frozen/unet"] if self.config.model.trainable != "all" else []
        trained = [f"{g}/unet" for g in groups] if self.config.model.trainable != "none" else []
        sources: dict[str, WeightSource] = dict.fromkeys([*trained, *left], fill)
        if self.guided:
            sources["frozen/nothing"] = self.empty_caption
        if self.config.encoder.path and self.config.encoder.start == "weights":
            places = [f"{g}/encoder" for g in groups] if self.config.encoder.trainable else ["frozen/encoder"]
            sources |= dict.fromkeys(places, self.pretrained)
        return sources

    def empty_caption(self, abstract: PyTree) -> PyTree:
        """The text states of the empty caption: a `WeightSource`."""
        states = features.text_states(self.config.target.bank_root, [""], self.parts, meshes.make(MeshConfig()))
        return jax.device_put(jnp.asarray(states[0]), abstract.sharding)

    def pretrained(self, abstract: PyTree) -> PyTree:
        """The encoder that masked pretraining left, without what only its decoder needs: a `WeightSource`."""
        run = opening.open_run(self.config.encoder.path)
        values = flatten(run.params)
        return like(abstract, {p: jax.device_put(values[p], leaf.sharding) for p, leaf in flatten(abstract).items()})

    def data(self, split: str) -> BatchSpec:
        stream: TrialExamples = trials.open_stream(
            self.encoder.data, self.config.target, split, self.parts, seed=self.config.seed
        )
        channels, expected = stream.element()["signal"].shape[0], self.encoder.model.channels
        if channels != expected:
            raise UserError(f"the trials have {channels} channels, but the encoder takes {expected}")
        return self.spec(stream)

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of one training example, by name, found out without any recording or image."""
        data, vae = self.encoder.data, self.parts.config("vae")
        side = self.config.target.resolution // 2 ** (len(vae["block_out_channels"]) - 1)
        latent = (side, side, int(vae.get("latent_channels", 4)))
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "signal": ((self.encoder.model.channels, data.samples), jnp.float32),
            "valid": ((data.samples,), jnp.float32),
            "mean": (latent, jnp.float32),
            "log_variance": (latent, jnp.float32),
            "embedding": ((max(self.embedding_dim, 1),), jnp.float32),
            "image": ((), jnp.int32),
            "index": ((2,), jnp.uint32),
            "weight": ((), jnp.float32),
        }
        return {name: jax.ShapeDtypeStruct(*one) for name, one in shapes.items()}

    # ------------------------------------------------------------------------------------------------- pure functions
    def encode(self, params: PyTree, frozen: PyTree, batch: Batch) -> tuple[Array, Array | None]:
        """Return (context [B, S, D], embedding [B, P] or None) of a batch of `signal` and `valid`."""
        encoder = params["encoder"] if "encoder" in params else frozen["encoder"]
        tokens = masked_pretraining.features(self.encoder, encoder, batch["signal"], batch["valid"])
        ok = masking.patch_valid(batch["valid"], self.encoder.model.patch)
        maps = nnx.merge(self.conditioner_graph, params["conditioner"])
        return maps.context(tokens, ok), maps.embed(tokens, ok) if maps.has_embedding else None

    def time_offset(self, params: PyTree, context: Float[Array, "B S D"]) -> Array | None:
        maps = nnx.merge(self.conditioner_graph, params["conditioner"])
        return maps.time_offset(context) if maps.has_time else None

    def loss(self, params: PyTree, frozen: PyTree, batch: Batch, seed: Array | int, training: bool) -> Loss:
        """Return the diffusion loss and that of the alignment; of held-out trials without dropped conditions."""
        config, weight = self.config.loss, batch["weight"]
        context, embedding = self.encode(params, frozen, batch)
        if self.guided and training:
            keys = example_keys(seed, "condition", batch["index"])
            dropped = jax.vmap(jax.random.uniform)(keys) < config.drop_condition
            context = jnp.where(dropped[:, None, None], frozen["nothing"], context)
        offset = self.time_offset(params, context)
        network, arguments = self.unet
        unet = network.bind(arguments, merged(params.get("unet", {}), frozen.get("unet", {})))

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
        """Forward and backward of the U-Net, the encoder and the maps, as if all of them were trained."""
        if not (self.config.model.path or self.config.model.architecture):
            return None
        h, w, _ = self.example()["mean"].shape
        encoder = self.encoder.flops()["features"] if self.config.encoder.trainable else 0.0
        tokens, hidden = self.encoder.patches, self.config.model.hidden
        context, width = self.context_shape
        maps = 2.0 * (tokens * hidden + hidden * context) * self.encoder.model.dim
        maps += 2.0 * context * self.encoder.model.dim * width + 2.0 * self.encoder.model.dim * self.embedding_dim
        return 3 * (flops.unet(self.unet[1], h, w, context) + encoder + maps)

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
        offset = self.time_offset(params, context)
        named = {"context": context, "time_offset": offset, "embedding": embedding}
        return {name: value for name, value in named.items() if value is not None}

    def unconditional(self, params: PyTree, frozen: PyTree) -> dict[str, Array]:
        if not self.guided:
            raise UserError("this model was trained without an unconditional branch: add --guidance 1")
        nothing = frozen["nothing"][None]
        offset = self.time_offset(params, nothing)
        return {"context": nothing} | ({} if offset is None else {"time_offset": offset})

    def conditioning(self, run: Run, mesh: jax.sharding.Mesh) -> tuple[PyTree, PyTree]:
        frozen = {name: self._frozen(name, mesh) for name in self._frozen_shapes if name != "unet"}
        params = {name: part for name, part in run.params.items() if name != "unet"}
        return jax.device_put(params, sharding.shardings(params, mesh)), frozen

    def pipeline(self, run: Run, mesh: jax.sharding.Mesh, *, dtype: str, attention: str) -> LatentDiffusion:
        network, arguments = self.unet
        computed = arguments | {"dtype": jnp.dtype(dtype), "attention": attention, "remat": "none"}
        trained = run.params.get("unet", {})
        trained = jax.device_put(trained, sharding.shardings(trained, mesh))
        params = merged(trained, self._frozen("unet", mesh) if "unet" in self._frozen_shapes else {})
        params = jax.tree.map(lambda x, leaf: jax.device_put(x, leaf.sharding), params, loaded.placed(params, mesh))
        unet = LoadedNetwork(network, computed, params)
        return LatentDiffusion.open(
            self.parts, mesh, dtype=jnp.dtype(dtype), attention=attention, unet=unet, text=self.guided
        )

    @functools.cached_property
    def _frozen_shapes(self) -> PyTree:
        return jax.eval_shape(self.init, jax.random.key(0)).frozen

    def _frozen(self, name: str, mesh: jax.sharding.Mesh) -> PyTree:
        """A frozen part of the state on `mesh`, from where it comes from."""
        shapes = self._frozen_shapes[name]
        places = sharding.shardings({name: shapes}, mesh)[name]
        abstract = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, places)
        return self.weights()[f"frozen/{name}"](abstract)

    def export(self, run: Run, format: Format) -> Exported:
        from dreamjax.systems import dreamdiffusion_export

        return dreamdiffusion_export.export(self, run)

    @classmethod
    def imported(cls, checkpoint: Checkpoint, options: ImportOptions) -> Imported | None:
        from dreamjax.systems import dreamdiffusion_import

        return dreamdiffusion_import.imported(cls, checkpoint, options)


SYSTEM = DreamDiffusion
