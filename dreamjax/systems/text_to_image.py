"""Text to image: the U-Net of latent diffusion, trained on images with captions (Rombach et al. 2022, 2112.10752).

The autoencoder and the text encoder are frozen, so their outputs for all images and captions are computed once into a
bank; a step reads only latents' moments and text states. The whole U-Net is trained, or only its cross-attention. The
loss is that of `diffusion_base`; a share of the captions is dropped, so that guidance works.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from dreamjax import config as configs
from dreamjax.diffusion import sampling
from dreamjax.errors import UserError
from dreamjax.models import flops
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.runs.latent_diffusion import LatentDiffusion
from dreamjax.systems import image_export, preview
from dreamjax.systems.base import GeneratesFromText, Loss, Run
from dreamjax.systems.compute import GradientConfig, NamedLayersConfig
from dreamjax.systems.diffusion_base import COMPARED, DiffusionLossConfig, DiffusionSystem, diffusion_loss, merged
from dreamjax.systems.exchange import Exported, Exports, Format
from dreamjax.targets import latents
from dreamjax.targets.latents import LatentConfig
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.held_out import averaged
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, BatchSpec, PyTree, State, WeightSource
from dreamjax.training.train_config import TrainConfig
from dreamjax.weights.loaded import LoadedNetwork

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHECK = """
from diffusers import UNet2DConditionModel
unet = UNet2DConditionModel.from_pretrained("unet", torch_dtype=torch.float32)
differences = {"unet": difference(unet(p["latents"], p["timesteps"], p["context"]).sample, "output")}
"""
USAGE = """from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("FOLDER")
pipeline("a caption").images[0].save("image.png")"""
COMPARISON = "an input of the U-Net (`latents`, `timesteps`, `context`) and the `output` that dreamjax computed"
SAMPLER, STEPS, GUIDANCE = "ddim", 30, 3.0  # of the images that are logged
PreviewProgram = Callable[[PyTree, Batch], Float[Array, "2 B H W 3"]]  # (U-Net's parameters, rows) → images in [0, 1]


@dataclass(frozen=True)
class UNetModelConfig(NamedLayersConfig):
    """The U-Net, its weights, and how it is computed."""

    path: str = ""  # folder or hub id of a Stable Diffusion pipeline: its sizes and weights
    variant: str | None = None  # of its weights, such as fp16
    architecture: str = ""  # published sizes by name, for training from scratch; see runs/shapes.py
    vae: str = ""  # a part's own folder, in place of the one in `path`
    text_encoder: str = ""
    tokenizer: str = ""
    start: Literal["weights", "random"] = "weights"  # initial weights of the U-Net
    trainable: Literal["all", "cross_attention"] = "all"
    attention: Literal["auto", "xla", "cudnn", "pallas", "saved"] = "auto"  # type: ignore[assignment]


@dataclass(frozen=True)
class TextToImageConfig(GradientConfig):
    """A run of training a U-Net."""

    system: Literal["text_to_image"] = "text_to_image"
    data: LatentConfig = field(default_factory=LatentConfig)
    model: UNetModelConfig = field(default_factory=UNetModelConfig)
    loss: DiffusionLossConfig = field(default_factory=DiffusionLossConfig)


# the demo's: drawn images of 32 x 32, a U-Net trained from scratch with the demo's autoencoder and text encoder
_SHAPES = TextToImageConfig(
    data=LatentConfig(resolution=32, val_share=0.05, encode_batch=64),
    model=UNetModelConfig(architecture="shapes", start="random"),
    # v-prediction, all time steps weighted alike: shape and place are decided at high noise, which then counts more
    loss=DiffusionLossConfig(),
    optim=OptimConfig(
        learning_rate=4e-3, warmup_steps=50, weight_decay=0.01, beta1=0.95, beta2=0.99, clip=1.0, ema_decay=0.99
    ),
    train=TrainConfig(steps=1200, batch_size=32, eval_every=600, checkpoint=CheckpointConfig(every=600)),
)
# fine-tuning with the defaults of diffusers' training script: AdamW (0.9, 0.999), a constant rate of 1e-5
_SD15 = TextToImageConfig(
    data=LatentConfig(resolution=512, flip=0.5, val_share=0.02),
    model=UNetModelConfig(dtype="bfloat16", remat="full"),
    loss=DiffusionLossConfig(drop_condition=0.1),
    optim=OptimConfig(
        learning_rate=1e-5,
        warmup_steps=500,
        schedule="constant",
        beta2=0.999,
        weight_decay=0.01,
        clip=1.0,
        ema_decay=0.9999,
    ),
    train=TrainConfig(
        steps=15_000,
        batch_size=64,
        eval_every=1_000,
        image_every=0,  # images would keep the autoencoder on the devices
        checkpoint=CheckpointConfig(every=1_000),
    ),
)
PRESETS = {"shapes": _SHAPES, "sd15": _SD15}
preset = functools.partial(configs.preset, presets=PRESETS)  # name → its config, to change and to load


@dataclass(frozen=True)
class TextToImage(DiffusionSystem):
    """The system that trains the U-Net on captions."""

    config: TextToImageConfig
    name: ClassVar[str] = "text_to_image"
    Config: ClassVar[type] = TextToImageConfig
    capabilities: ClassVar[tuple[type, ...]] = (GeneratesFromText, Exports)

    def init(self, rng: Array) -> State:
        params, frozen = self.split_unet(self.unet.network.init(self.unet.arguments, rng))
        return self.fresh(params, frozen={"unet": frozen} if frozen else {})

    def check(self) -> None:
        m = self.config.model
        if m.start == "weights" and m.architecture and not m.path:
            raise UserError("model.start is weights, but model.path is empty: name a folder, or set model.start=random")
        if m.start == "random" and m.trainable != "all":
            raise UserError(
                f"model.trainable is {m.trainable}, but with model.start=random there are no weights to keep; set "
                "model.trainable=all"
            )
        self.unet  # noqa: B018 - its config is read and checked
        m.check_device()

    def weights(self) -> Mapping[str, WeightSource]:
        if self.config.model.start == "random":
            return {}
        frozen = ["frozen/unet"] if self.config.model.trainable != "all" else []
        return dict.fromkeys([*self.groups, *frozen], self.unet_weights())

    def data(self, split: str) -> BatchSpec:
        data, drop = self.config.data, self.config.loss.drop_condition
        return self.spec(latents.open_stream(data, split, self.parts, seed=self.config.seed, drop_condition=drop))

    def loss(self, params: PyTree, frozen: PyTree, batch: Batch, seed: Array | int, training: bool) -> Loss:
        """Return the diffusion loss, without other metrics; for held-out images all time steps have equal weight."""
        unet = self.unet.bound(merged(params, frozen.get("unet", {})))
        gamma = self.config.loss.min_snr_gamma if training else None
        total, weight, metrics = diffusion_loss(self.schedule, unet, batch, seed, self.scale, gamma)
        return total, weight, metrics if training else {}

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        return latents.element(self.latent_shape(self.config.data.resolution), self.context_shape)

    def flops(self) -> float:
        h, w, _ = self.latent_shape(self.config.data.resolution)
        return 3 * flops.unet(self.unet.arguments, h, w, self.context_shape[0])

    # ---------------------------------------------------------------------------------------------- while it trains
    def preview(self, state: State, batch: Batch) -> "Figure | None":
        """Return a figure of a few held-out images above images generated from their captions."""
        params = merged(averaged(state), state.frozen.get("unet", {}))
        true, made = np.round(255 * np.asarray(self.preview_program(params, batch))).astype(np.uint8)
        return preview.image_rows({"held out": true, "from its caption": made})

    @functools.cached_property
    def preview_program(self) -> PreviewProgram:
        """Return a program for a whole run: rows of `mean` and `context` → [decoded latents, images of their captions].

        Row i starts from the noise of (seed 0, i), so that images of later steps differ only by the training.
        The autoencoder stays on the devices. Every process of a run gets all images.
        """
        mesh = meshes.make(self.config.train.mesh)
        unet = LoadedNetwork(self.unet.network, {**self.unet.arguments, "remat": "none"}, {})
        how = {"dtype": unet.arguments["dtype"], "attention": unet.arguments["attention"]}
        opened = LatentDiffusion.open(self.parts, mesh, unet=unet, **how)
        common = {"seed": jnp.uint32(0), "scale": jnp.float32(GUIDANCE), "rescale": jnp.float32(0)}
        common["unconditional"] = {"context": opened.context([""])}
        model = dataclasses.replace(opened, text=None, tokenizer=None)  # no longer needed
        plan = sampling.plan(SAMPLER, model.schedule, STEPS)

        def make(params: PyTree, common: Mapping[str, PyTree], batch: Batch) -> Array:
            rows = {"index": jnp.arange(len(batch["context"]), dtype=jnp.uint32), "context": batch["context"]}
            made, _ = model.sample(params, plan, rows, common, size=batch["mean"].shape[1:3], rescales=False)
            true = model.vae.bound(params["vae"]).decode(batch["mean"])
            return jnp.stack([jnp.clip(true / 2 + 0.5, 0, 1), made])

        compiled = jax.jit(make, out_shardings=NamedSharding(mesh, P()))

        def run(params: PyTree, batch: Batch) -> Array:
            with jax.set_mesh(mesh):
                rows = {name: batch[name] for name in ("mean", "context")}
                return compiled({"unet": params, "vae": model.vae.params}, common, rows)

        return run

    # ---------------------------------------------------------------------------------------------------- a trained run
    def export(self, run: Run, format: Format) -> Exported:
        """Return a folder that `StableDiffusionPipeline.from_pretrained` opens; all but the U-Net is copied."""
        model = self.config.model
        source = f" of {epath.Path(model.path).name}" if model.path else ""
        params = self.whole_unet(run.params, meshes.make(MeshConfig()))
        return Exported(
            {"unet": self.unet_component(params)},
            self._parity(params),
            CHECK,
            self.unchanged_parts(),
            parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
            title="Text to image, trained with dreamjax",
            usage=USAGE,
            rows={
                "trained": "the whole U-Net" if model.trainable == "all" else "the cross-attention of the U-Net",
                "images": image_export.images_in_words(self.config.data),
                "the other parts": f"copies of the original bytes{source}",
                "predicts": self.schedule.prediction_type,
            },
            compared=COMPARISON,
        )

    def _parity(self, params: PyTree) -> dict[str, np.ndarray]:
        """Return an input of the U-Net in PyTorch's layout, and its output in float32."""
        rng, network = np.random.default_rng(0), self.unet.network
        exact = {**self.unet.arguments, "dtype": jnp.dtype("float32"), "attention": "auto", "remat": "none"}
        h, w = (min(side, COMPARED) for side in self.latent_shape(self.config.data.resolution)[:2])
        latents = rng.standard_normal((2, exact["in_channels"], h, w)).astype(np.float32)
        context = rng.standard_normal((2, *self.context_shape)).astype(np.float32)
        timesteps = np.array([1, self.schedule.num_train_timesteps - 1], np.int64)

        def forward(params: PyTree, x: jax.Array, t: jax.Array, context: jax.Array) -> jax.Array:
            return network.bind(exact, params)(x, t, context)

        output = image_export.computed(forward, params, latents.transpose(0, 2, 3, 1), timesteps, context)
        given: dict[str, np.ndarray] = {"latents": latents, "timesteps": timesteps, "context": context}
        return {**given, "output": image_export.channels_first(output)}


SYSTEM = TextToImage
