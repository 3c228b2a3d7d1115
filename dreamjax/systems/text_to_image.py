"""Text to image: the U-Net of latent diffusion, trained on images with captions (Rombach et al. 2022, 2112.10752).

The autoencoder and the text encoder are frozen, so what they make of every image and caption is computed once into a
bank; a step sees latents' moments and text states only. Trained are the whole U-Net, or its cross-attention alone.

Loss, with z the scaled latents of an image, c its text (dropped at times, so that guidance works), t ~ U{0 … T - 1}:

    E ‖ target(z, ε, t) - unet(a_t z + s_t ε, t, c) ‖² · w(t)      w: 1, or min-SNR (Hang et al. 2023, arXiv 2303.09556)
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array

from dreamjax import config as configs
from dreamjax.diffusion import prediction
from dreamjax.diffusion.schedule import NoiseSchedule
from dreamjax.errors import UserError
from dreamjax.models import flops
from dreamjax.models.autoencoder_kl import sample as draw_posterior
from dreamjax.objectives.masking import example_keys
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.parallel.tree_paths import nested
from dreamjax.runs import latent_diffusion
from dreamjax.runs.components import Components
from dreamjax.runs.latent_diffusion import LatentDiffusion
from dreamjax.systems import image_export, text_to_image_preview
from dreamjax.systems.base import (
    Card,
    Component,
    Exported,
    Exports,
    FileContent,
    Format,
    GeneratesFromText,
    GradientSystem,
    Loss,
    Run,
)
from dreamjax.systems.compute import NamedLayersConfig
from dreamjax.targets import latents
from dreamjax.targets.latents import LatentConfig
from dreamjax.training.held_out import averaged
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, BatchSpec, PyTree, State, WeightSource
from dreamjax.training.train_config import TrainConfig
from dreamjax.typing import JsonDict
from dreamjax.weights import loaded, networks, streaming
from dreamjax.weights.loaded import LoadedNetwork
from dreamjax.weights.pipeline_folder import CONFIGS, INDEX
from dreamjax.weights.table import flatten, keep

CROSS_ATTENTION = r"(.*/)?attn2/.*"
CLASSES = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}
COMPARED = 32  # side of the latents that an export is compared on, at most
CHECK = """
from diffusers import UNet2DConditionModel
unet = UNet2DConditionModel.from_pretrained("unet", torch_dtype=torch.float32)
differences = {"unet": difference(unet(p["latents"], p["timesteps"], p["context"]).sample, "output")}
"""
USAGE = """from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("FOLDER")
pipeline("a caption").images[0].save("image.png")"""


@dataclass(frozen=True)
class UNetModelConfig(NamedLayersConfig):
    """Which U-Net, from where, and how it is computed."""

    path: str = ""  # folder or hub id of a Stable Diffusion pipeline: its sizes and weights
    variant: str | None = None  # of its weights, such as fp16
    architecture: str = ""  # published sizes by name, for training from nothing; see runs/shapes.py
    vae: str = ""  # a part's own folder, in place of the one in `path`
    text_encoder: str = ""
    tokenizer: str = ""
    start: Literal["weights", "random"] = "weights"  # what the U-Net is before its first step
    trainable: Literal["all", "cross_attention"] = "all"
    attention: Literal["auto", "xla", "cudnn", "pallas", "saved"] = "auto"  # type: ignore[assignment]


@dataclass(frozen=True)
class DiffusionLossConfig:
    """What is weighed how."""

    drop_condition: float = 0.1  # share of examples that see the empty caption
    min_snr_gamma: float | None = None  # None: all time steps alike

    def __post_init__(self) -> None:
        if not 0 <= self.drop_condition <= 1:
            raise ValueError(f"loss.drop_condition is {self.drop_condition}, but it is a share from 0 to 1")
        if self.min_snr_gamma is not None and not self.min_snr_gamma > 0:
            raise ValueError(f"loss.min_snr_gamma is {self.min_snr_gamma}, but it must be positive (none: no weights)")


@dataclass(frozen=True)
class TextToImageConfig:
    """A run of training a U-Net."""

    system: Literal["text_to_image"] = "text_to_image"
    seed: int = 0  # of parameters, data order, noise and time steps
    data: LatentConfig = field(default_factory=LatentConfig)
    model: UNetModelConfig = field(default_factory=UNetModelConfig)
    loss: DiffusionLossConfig = field(default_factory=DiffusionLossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        configs.check_seed("seed", self.seed)


def diffusion_loss(
    schedule: NoiseSchedule, unet: Any, batch: Batch, seed: Array | int, scale: float, gamma: float | None
) -> tuple[Array, Array, dict[str, tuple[Array, Array]]]:
    """`(sum, weight, metrics)` of a batch of `mean`, `log_variance` (B, h, w, Z), `context` (B, S, D) and `weight`.

    Noise and time steps are keyed by (seed, batch["index"]).
    """
    mean, weight = batch["mean"], batch["weight"]
    keys = example_keys(seed, "diffusion", batch["index"])
    draw = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], jnp.float32))
    of_latents, of_noise, of_time = (jax.vmap(functools.partial(jax.random.fold_in, data=i))(keys) for i in range(3))
    z = scale * draw_posterior(mean, batch["log_variance"], draw(of_latents))
    t = jax.vmap(lambda key: jax.random.randint(key, (), 0, schedule.num_train_timesteps))(of_time)
    noise = draw(of_noise)
    output = unet(prediction.add_noise(schedule, z, noise, t), t, batch["context"])
    error = jnp.square(output - prediction.target(schedule, z, noise, t)).mean((1, 2, 3))
    weighed = error if gamma is None else error * prediction.min_snr_weight(schedule, t, gamma)
    return (weighed * weight).sum(), weight.sum(), {"mse": ((error * weight).sum(), weight.sum())}


@dataclass(frozen=True)
class TextToImage(GradientSystem):
    """Training the U-Net on captions, as a system."""

    config: TextToImageConfig
    name: ClassVar[str] = "text_to_image"
    Config: ClassVar[type] = TextToImageConfig
    capabilities: ClassVar[tuple[type, ...]] = (GeneratesFromText, Exports)
    formats: ClassVar[tuple[Format, ...]] = ("diffusers",)

    # ---------------------------------------------------------------------------------------------------- the network
    @functools.cached_property
    def parts(self) -> Components:
        """Where the networks come from. Raises UserError for what is not there."""
        m = self.config.model
        if not m.path and not m.architecture:
            raise UserError("model.path is empty; name a Stable Diffusion folder (or model.architecture and its parts)")
        if m.start == "weights" and not m.path:
            raise UserError("model.start is weights, but model.path is empty: name a folder, or set model.start=random")
        folders = {"vae": m.vae, "text_encoder": m.text_encoder, "tokenizer": m.tokenizer}
        return Components.of(m.path, variant=m.variant, architecture=m.architecture, parts=folders)

    @functools.cached_property
    def network(self) -> tuple[networks.Network, JsonDict]:
        """The U-Net and its arguments."""
        m, source = self.config.model, self.parts.source("unet")
        config = self.parts.config("unet")
        network = networks.of({"_class_name": "UNet2DConditionModel"} | config, source)
        return network, network.arguments(config, source) | m.arguments()

    @functools.cached_property
    def schedule(self) -> NoiseSchedule:
        return latent_diffusion.schedule_of(self.parts.config("scheduler"), self.parts.source("scheduler"))

    @functools.cached_property
    def scale(self) -> float:
        return latent_diffusion.scale_of(self.parts)

    def split(self, params: PyTree) -> tuple[PyTree, PyTree]:
        """(what is trained, what is frozen) of a U-Net's parameters."""
        if self.config.model.trainable == "all":
            return params, {}
        return keep(params, CROSS_ATTENTION), keep(params, CROSS_ATTENTION, but=True)

    # ------------------------------------------------------------------------------------------------------- the task
    def init(self, rng: Array) -> State:
        network, arguments = self.network
        params, frozen = self.split(network.init(arguments, rng))
        return self.fresh(params, frozen={"unet": frozen} if frozen else {})

    def check(self) -> None:
        self.network  # noqa: B018 - its config is read and checked
        self.config.model.check_device()

    def weights(self) -> Mapping[str, WeightSource]:
        if self.config.model.start == "random":
            return {}
        network, arguments = self.network
        fill = streaming.source(
            network.table, self.parts.tensors("unet"), str(self.parts.path("unet")), whole=network.shapes(arguments)
        )
        groups = ["params", *(["ema"] if self.config.optim.ema_decay is not None else [])]
        frozen = ["frozen/unet"] if self.config.model.trainable != "all" else []
        return dict.fromkeys([*groups, *frozen], fill)

    def data(self, split: str) -> BatchSpec:
        stream = latents.open_stream(
            self.config.data,
            split,
            self.parts,
            seed=self.config.seed,
            drop_condition=self.config.loss.drop_condition,
        )
        return self.spec(stream)

    def bind(self, params: PyTree, frozen: PyTree) -> Any:
        """The whole U-Net around its trained and its frozen parameters."""
        network, arguments = self.network
        return network.bind(arguments, merged(params, frozen))

    def loss(self, params: PyTree, frozen: PyTree, batch: Batch, seed: Array | int, training: bool) -> Loss:
        """Return the diffusion loss; of held-out images that of all time steps alike, and no metric beside it."""
        unet = self.bind(params, frozen.get("unet", {}))
        gamma = self.config.loss.min_snr_gamma if training else None
        total, weight, metrics = diffusion_loss(self.schedule, unet, batch, seed, self.scale, gamma)
        return total, weight, metrics if training else {}

    def preview(self, state: State, batch: Batch) -> Any:
        """Return a figure of a few held-out images above images generated from their captions."""
        params = merged(averaged(state), state.frozen.get("unet", {}))
        return text_to_image_preview.figure(self.preview_program, params, batch)

    @functools.cached_property
    def preview_program(self) -> text_to_image_preview.PreviewProgram:
        network, arguments = self.network
        unet = LoadedNetwork(network, arguments | {"remat": "none"}, {})
        return text_to_image_preview.program(self.parts, unet, meshes.make(self.config.train.mesh))

    @property
    def context_shape(self) -> tuple[int, int]:
        """(tokens, width) of the text states."""
        text = self.parts.config("text_encoder")
        return int(text.get("max_position_embeddings", 77)), self.network[1]["context_dim"]

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of one training example, by name, found out without any image."""
        vae = self.parts.config("vae")
        side = self.config.data.resolution // 2 ** (len(vae["block_out_channels"]) - 1)
        return latents.element((side, side, int(vae.get("latent_channels", 4))), self.context_shape)

    def flops(self) -> float:
        example = self.example()
        h, w, _ = example["mean"].shape
        return 3 * flops.unet(self.network[1], h, w, example["context"].shape[0])

    # ---------------------------------------------------------------------------------------------------- a trained run
    def whole_unet(self, params: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
        """Return all parameters of the U-Net on `mesh`: what the run trained, and what it left as it was."""
        network, arguments = self.network
        places = loaded.placed(network.shapes(arguments), mesh)
        trained, frozen = self.split(places)
        params = jax.tree.map(lambda x, place: jax.device_put(x, place.sharding), params, trained)
        return merged(params, self.weights()["frozen/unet"](frozen)) if frozen else params

    def pipeline(self, run: Run, mesh: jax.sharding.Mesh, *, dtype: str, attention: str) -> LatentDiffusion:
        """Return the run's U-Net with the autoencoder and the text encoder that it was trained beside."""
        network, arguments = self.network
        computed = arguments | {"dtype": jnp.dtype(dtype), "attention": attention, "remat": "none"}
        unet = LoadedNetwork(network, computed, self.whole_unet(run.params, mesh))
        return LatentDiffusion.open(self.parts, mesh, dtype=jnp.dtype(dtype), attention=attention, unet=unet)

    def export(self, run: Run, format: Format) -> Exported:
        """Return a folder that `StableDiffusionPipeline.from_pretrained` opens; all but the U-Net is copied."""
        model, data, network = self.config.model, self.config.data, self.network[0]
        params = self.whole_unet(run.params, meshes.make(MeshConfig()))
        trained, _ = self.split(params)
        card = Card(
            "Text to image, trained with dreamjax",
            USAGE,
            {
                "trained": "the whole U-Net" if model.trainable == "all" else "the cross-attention of the U-Net",
                "images": f"{epath.Path(data.folder).name or 'unknown'}, {data.resolution} x {data.resolution} pixels",
                "the other parts": "copies of the original bytes"
                + (f" of {epath.Path(model.path).name}" if model.path else ""),
                "predicts": self.schedule.prediction_type,
            },
            "an input of the U-Net (`latents`, `timesteps`, `context`) and the `output` that dreamjax computed",
        )
        return Exported(
            {"unet": unet_component(self.parts, network, params, trained)},
            self._parity(params),
            CHECK,
            unchanged_parts(self.parts),
            card=card,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        )

    def _parity(self, params: PyTree) -> dict[str, np.ndarray]:
        """Return an input of the U-Net in PyTorch's layout, and its output in float32."""
        network, arguments = self.network
        exact = arguments | {"dtype": jnp.dtype("float32"), "attention": "auto", "remat": "none"}
        example, rng = self.example(), np.random.default_rng(0)
        h, w = (min(side, COMPARED) for side in example["mean"].shape[:2])
        latents = rng.standard_normal((2, arguments["in_channels"], h, w)).astype(np.float32)
        context = rng.standard_normal((2, *example["context"].shape)).astype(np.float32)
        timesteps = np.array([1, self.schedule.num_train_timesteps - 1], np.int64)

        def forward(params: PyTree, x: jax.Array, t: jax.Array, context: jax.Array) -> jax.Array:
            return network.bind(exact, params)(x, t, context)

        with jax.default_matmul_precision("highest"):
            output = jax.jit(forward)(params, latents.transpose(0, 2, 3, 1), timesteps, context)
        output = image_export.channels_first(output)
        return {"latents": latents, "timesteps": timesteps, "context": context, "output": output}


# ------------------------------------------------------------------------------------------------------------- exports
def unet_component(
    parts: Components, network: networks.Network, params: PyTree, trained: PyTree, **new: object
) -> Component:
    """Return a U-Net with trained tensors in float32 and frozen ones with the type and bytes that they came with.

    `params`: all parameters; `trained`: those of them that were trained. `new`: fields of its config that differ from
    the source's, whose file is copied where there are none.
    """
    tensors: dict[str, Any] = dict(network.table.to_torch(params))
    places = network.table.slots(trained)
    if len(places) < len(tensors):
        original = network.table.named(parts.tensors("unet"))
        tensors = {name: tensor if name in places else original[name] for name, tensor in tensors.items()}
    if parts.has("unet") and not new:
        return Component(parts.path("unet") / "config.json", tensors)
    return Component({"_class_name": "UNet2DConditionModel", **parts.config("unet"), **new}, tensors)


def unchanged_parts(parts: Components) -> dict[str, FileContent]:
    """Return the folders of a pipeline but for its U-Net, and its index."""
    scheduler = parts.config("scheduler")
    files: dict[str, FileContent] = {}
    if not parts.has("scheduler"):
        files[f"scheduler/{CONFIGS['scheduler']}"] = scheduler
    if parts.pipeline is not None:
        names = {**CLASSES, "scheduler": [], **parts.pipeline.components, **parts.pipeline.kept}
        index: FileContent = parts.pipeline.folder / INDEX
    else:
        names = {**CLASSES, "scheduler": []}
        absent = {name: [None, None] for name in ("feature_extractor", "image_encoder", "safety_checker")}
        index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False, **absent, **CLASSES}
        index |= {"scheduler": ["diffusers", scheduler["_class_name"]]}
    kept = parts.pipeline.kept if parts.pipeline is not None else {}
    files |= {name: parts.path(name) for name in names if name != "unet" and (parts.has(name) or name in kept)}
    return files | {INDEX: index}


def merged(params: PyTree, frozen: PyTree) -> PyTree:
    """One tree of trained and frozen parameters."""
    return nested(flatten(params) | flatten(frozen)) if frozen else params


SYSTEM = TextToImage
