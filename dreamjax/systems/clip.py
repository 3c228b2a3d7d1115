"""CLIP trained on captioned images (Radford et al. 2021, arXiv 2103.00020): a text and an image encoder, one space.

What it is for here: the text encoder that conditions a small latent diffusion model, and the image embeddings that a
brain encoder is aligned with, from the same data as everything else. Negatives come from the whole global batch.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.models import flops
from dreamjax.objectives.contrastive import ContrastiveConfig, contrastive
from dreamjax.parallel import processes
from dreamjax.runs import shapes
from dreamjax.systems import image_export
from dreamjax.systems.base import Card, Component, Exported, Exports, Format, GradientSystem, Loss, Run
from dreamjax.systems.compute import LayersConfig
from dreamjax.targets import images, tokens
from dreamjax.targets.features import PREPROCESSOR
from dreamjax.targets.images import ImageConfig, scaled
from dreamjax.targets.tokens import Tokenizer
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, BatchSpec, PyTree, State
from dreamjax.training.train_config import TrainConfig
from dreamjax.typing import JsonDict
from dreamjax.weights import hub, networks

PARTS = {"text": "text_encoder", "vision": "image_encoder"}  # of the parameters → of the architecture
TOKENIZER = "tokenizer"  # folder within the run's
TEXTS = ["a small red circle on the left", "A LARGE blue star, at the top right!", ""]  # that exports are compared on
CHECK = (
    f"TEXTS = {TEXTS!r}"
    + """
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection
ids = CLIPTokenizer.from_pretrained("tokenizer")(TEXTS, padding="max_length", truncation=True, return_tensors="pt")
text = CLIPTextModelWithProjection.from_pretrained("text_encoder")(input_ids=p["ids"])
image = CLIPVisionModelWithProjection.from_pretrained("image_encoder")(p["images"])
differences = {
    "ids": float((ids.input_ids != p["ids"]).any()),
    "text states": difference(text.last_hidden_state, "text_states"),
    "text embeddings": difference(text.text_embeds, "text_embeds"),
    "image embeddings": difference(image.image_embeds, "image_embeds"),
}
"""
)
USAGE = """from transformers import CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection

tokenizer = CLIPTokenizer.from_pretrained("FOLDER/tokenizer")
text_encoder = CLIPTextModelWithProjection.from_pretrained("FOLDER/text_encoder")
image_encoder = CLIPVisionModelWithProjection.from_pretrained("FOLDER/image_encoder")     # images in [-1, 1]"""


@dataclass(frozen=True)
class ClipModelConfig(LayersConfig):
    """Which encoders, which tokenizer, and how they are computed."""

    architecture: str = "shapes"  # see runs/shapes.py
    tokenizer: str = ""  # folder or hub id; empty: one is learned from the captions, and kept with the run


@dataclass(frozen=True)
class ClipConfig:
    """A run of training CLIP."""

    system: Literal["clip"] = "clip"
    seed: int = 0  # of parameters and data order
    data: ImageConfig = field(default_factory=lambda: ImageConfig(resolution=32))
    model: ClipModelConfig = field(default_factory=ClipModelConfig)
    loss: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        configs.check_seed("seed", self.seed)
        if (self.train.microbatches or 1) > 1:
            raise ValueError(
                f"train.microbatches is {self.train.microbatches}, but a contrastive loss needs its whole batch at once"
            )
        if self.data.flip:
            raise ValueError(f"data.flip is {self.data.flip}, but the captions would then be those of another image")
        parts = shapes.get(self.model.architecture)
        if "image_encoder" not in parts:
            raise ValueError(f"model.architecture {self.model.architecture} has no image_encoder")
        if (size := parts["image_encoder"]["image_size"]) != self.data.resolution:
            raise ValueError(f"data.resolution is {self.data.resolution}, but the image_encoder sees {size} pixels")

    def part(self, name: str) -> JsonDict:
        """The config.json of "text" or "vision", each with its projection."""
        config = shapes.get(self.model.architecture)[PARTS[name]]
        return config | {"architectures": [f"CLIP{name.capitalize()}ModelWithProjection"]}


_SHAPES = ClipConfig(
    data=ImageConfig(resolution=32),
    optim=OptimConfig(learning_rate=2e-3, warmup_steps=20, weight_decay=0.1, beta2=0.98, clip=1.0),
    train=TrainConfig(steps=200, batch_size=64, eval_every=200, checkpoint=CheckpointConfig(every=200)),
)
_TINY = ClipConfig(
    data=ImageConfig(resolution=16),
    model=ClipModelConfig("tiny"),
    optim=OptimConfig(learning_rate=3e-3, warmup_steps=5, weight_decay=0.0),
    train=TrainConfig(steps=40, batch_size=16, eval_every=40, checkpoint=CheckpointConfig(every=40)),
)
PRESETS = {"shapes": _SHAPES, "tiny": _TINY}


def preset(name: str) -> ConfigDict:
    """The config of a shipped setting, to change and to load. Raises UserError for an unknown name."""
    return configs.preset(name, PRESETS)


# --------------------------------------------------------------------------------------------------- pure functions
@functools.lru_cache(maxsize=16)
def _network(config: ClipConfig, name: str) -> tuple[networks.Network, tuple[tuple[str, Any], ...]]:
    m, described = config.model, config.part(name)
    network = networks.of(described, m.architecture)
    return network, tuple((network.arguments(described, m.architecture) | m.arguments()).items())


def init_params(config: ClipConfig, rng: Array) -> PyTree:
    """Fresh parameters: a nested dict of float32 arrays."""
    params: dict[str, Any] = {"logit_scale": jnp.asarray(math.log(1 / config.loss.temperature), jnp.float32)}
    for name, key in zip(PARTS, jax.random.split(rng, len(PARTS)), strict=True):
        network, arguments = _network(config, name)
        params[name] = network.init(dict(arguments), key)
    return params


def bind(config: ClipConfig, params: PyTree, name: str) -> Any:
    """The `models.clip` encoder "text" or "vision" around given parameters; free of cost, also under jit."""
    network, arguments = _network(config, name)
    return network.bind(dict(arguments), params[name])


def text_features(config: ClipConfig, params: PyTree, ids: Int[Array, "B T"]) -> Float[Array, "B P"]:
    """Embeddings of texts in the common space, as the projection gives them."""
    return bind(config, params, "text")(ids).projected


def image_features(config: ClipConfig, params: PyTree, x: Float[Array, "B H W 3"]) -> Float[Array, "B P"]:
    """Embeddings of images in [-1, 1] in the common space, as the projection gives them."""
    return bind(config, params, "vision")(x).projected


def clip_loss(config: ClipConfig, params: PyTree, batch: Batch) -> tuple[Array, Array, dict[str, tuple[Array, Array]]]:
    """`(sum, weight, metrics)`; equal captions of a batch are not each other's negatives."""
    u = image_features(config, params, scaled(batch["image"]))
    v = text_features(config, params, batch["tokens"])
    return contrastive(u, v, params["logit_scale"], batch["caption"], batch["weight"])


# ------------------------------------------------------------------------------------------------------------ the task
@dataclass(frozen=True)
class Clip(GradientSystem):
    """Training CLIP, as a system."""

    config: ClipConfig
    name: ClassVar[str] = "clip"
    Config: ClassVar[type] = ClipConfig
    capabilities: ClassVar[tuple[type, ...]] = (Exports,)
    formats: ClassVar[tuple[Format, ...]] = ("diffusers",)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The one that the config names, or one learned from the captions of training.

        Raises UserError for one whose ids are not those that the text encoder reads.
        """
        text, model = self.config.part("text"), self.config.model
        length, size = text["max_position_embeddings"], text["vocab_size"]
        if not model.tokenizer:
            return tokens.train((entry.caption for entry in images.split(self.config.data, "train")), size, length)
        tokenizer = Tokenizer.open(hub.resolve(model.tokenizer), length)
        if tokenizer.vocabulary > size or (text["eos_token_id"] not in (2, tokenizer.end)):
            raise UserError(
                f"{model.tokenizer} has {tokenizer.vocabulary} ids and ends texts with {tokenizer.end}, but the text "
                f"encoder of {model.architecture} takes {size} and {text['eos_token_id']}; name another model.tokenizer"
            )
        return tokenizer

    def keep(self, workdir: epath.PathLike) -> None:
        """Keep the tokenizer in the run's folder. Raises UserError where it is another than when the run began."""
        folder = epath.Path(workdir) / TOKENIZER
        same = True
        if processes.is_first():
            if folder.exists():
                same = Tokenizer.open(folder).encoder.to_str() == self.tokenizer.encoder.to_str()
            else:
                self.tokenizer.write(folder)
        if not processes.agree("tokenizer", same):
            raise UserError(
                f"{folder} is not the tokenizer of these captions, which have changed; train in a new folder"
            )

    def init(self, rng: Array) -> State:
        return self.fresh(init_params(self.config, rng))

    def data(self, split: str) -> BatchSpec:
        training = split == "train"
        stream = images.open_stream(
            self.config.data, split, seed=self.config.seed, training=training, encode=self.tokenizer
        )
        stream.check_batch(self.config.train.batch_size)
        return self.spec(stream)

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        return images.element(self.config.data, tokens=self.config.part("text")["max_position_embeddings"])

    def flops(self) -> float:
        text, vision = self.config.part("text"), self.config.part("vision")
        total = flops.text_transformer(
            text["hidden_size"], text["num_hidden_layers"], text["intermediate_size"], text["max_position_embeddings"]
        )
        patches = (vision["image_size"] // vision["patch_size"]) ** 2
        ratio = vision["intermediate_size"] / vision["hidden_size"]
        entries = 3 * vision["patch_size"] ** 2
        total += flops.vision_transformer(vision["hidden_size"], vision["num_hidden_layers"], ratio, patches, entries)
        return 3 * total

    @property
    def microbatches(self) -> int:
        return 1  # negatives come from the whole batch

    def loss(self, params: PyTree, frozen: PyTree, batch: Batch, seed: Array | int, training: bool) -> Loss:
        """Return the contrastive loss; metrics: retrieval within the batch, and the share that guessing would get."""
        return clip_loss(self.config, params, batch)

    def export(self, run: Run, format: Format) -> Exported:
        """Return folders that transformers opens: text_encoder, image_encoder (both with projection), tokenizer."""
        data, folder = self.config.data, epath.Path(run.workdir) / TOKENIZER
        if not folder.is_dir():
            raise UserError(f"{folder} is missing; the text encoder needs its token ids: copy the folder from the run")
        size = data.resolution
        processor = image_export.preprocessor(
            data,
            image_processor_type="CLIPImageProcessor",
            size={"shortest_edge": size},
            do_center_crop=True,
            crop_size={"height": size, "width": size},
            do_convert_rgb=True,
        )
        components = {}
        for name, part in PARTS.items():
            tensors = _network(self.config, name)[0].table.to_torch(run.params[name])
            components[part] = Component(
                self.config.part(name), tensors, {PREPROCESSOR: processor} if name == "vision" else {}
            )
        card = Card(
            "CLIP, trained with dreamjax",
            USAGE,
            {
                "images": f"{epath.Path(data.folder).name or 'unknown'}, {size} x {size} pixels",
                "logits": f"{float(np.exp(run.params['logit_scale'])):.2f} x cosine similarity",
            },
            "`ids` of texts, their `text_states` and `text_embeds`, `images` and their `image_embeds` by dreamjax",
        )
        arrays = parity(self.config, run.params, Tokenizer.open(folder))
        return Exported(components, arrays, CHECK, {TOKENIZER: folder}, card=card)


def parity(config: ClipConfig, params: PyTree, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Return texts and two images of noise in PyTorch's layout, and what the encoders make of them in float32."""
    exact, x = image_export.in_float32(config), image_export.noise(2, config.data.resolution)
    ids = tokenizer(TEXTS, warn=False)

    def everything(params: PyTree, ids: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        text = bind(exact, params, "text")(ids)
        return text.last_hidden_state, text.projected, image_features(exact, params, x)

    with jax.default_matmul_precision("highest"):
        computed = jax.jit(everything)(params, ids, x)
    names = ("text_states", "text_embeds", "image_embeds")
    arrays = {name: np.asarray(array) for name, array in zip(names, computed, strict=True)}
    return {"ids": ids.astype(np.int64), "images": image_export.channels_first(x), **arrays}


SYSTEM = Clip
