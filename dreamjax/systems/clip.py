"""CLIP trained on captioned images (Radford et al. 2021, arXiv 2103.00020): a text and an image encoder, one space.

Here it provides the text encoder that conditions a small latent diffusion model, and the image embeddings with which a
brain encoder is aligned, all from the same data. Negatives come from the whole global batch.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.models import flops
from dreamjax.objectives.contrastive import TemperatureConfig, contrastive
from dreamjax.parallel import processes
from dreamjax.runs import shapes
from dreamjax.storage import presence
from dreamjax.systems import image_export
from dreamjax.systems.base import GradientSystem, Loss, Run
from dreamjax.systems.compute import GradientConfig, LayersConfig
from dreamjax.systems.exchange import Component, Exported, Exports, Format
from dreamjax.targets import images, tokens
from dreamjax.targets.features import PREPROCESSOR
from dreamjax.targets.images import ImageConfig, scaled
from dreamjax.targets.tokens import Tokenizer
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, BatchSpec, PyTree, State
from dreamjax.training.train_config import TrainConfig
from dreamjax.typing import JsonDict
from dreamjax.weights import hub
from dreamjax.weights.loaded import LoadedNetwork

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
    """The encoders, the tokenizer, and how they are computed."""

    architecture: str = "shapes"  # see runs/shapes.py
    tokenizer: str = ""  # folder or hub id; empty: one is learned from the captions, and kept with the run


@dataclass(frozen=True)
class ClipConfig(GradientConfig):
    """A run of training CLIP."""

    system: Literal["clip"] = "clip"
    data: ImageConfig = field(default_factory=lambda: ImageConfig(resolution=32))
    model: ClipModelConfig = field(default_factory=ClipModelConfig)
    loss: TemperatureConfig = field(default_factory=TemperatureConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
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
        """Return the config.json of "text" or "vision", each with its projection."""
        config = shapes.get(self.model.architecture)[PARTS[name]]
        return config | {"architectures": [f"CLIP{name.capitalize()}ModelWithProjection"]}


_SHAPES = ClipConfig(
    data=ImageConfig(resolution=32),
    optim=OptimConfig(learning_rate=2e-3, warmup_steps=20, weight_decay=0.1, beta2=0.98, clip=1.0),
    train=TrainConfig(steps=200, batch_size=64, eval_every=200, checkpoint=CheckpointConfig(every=200)),
)
PRESETS = {"shapes": _SHAPES}
preset = functools.partial(configs.preset, presets=PRESETS)  # name → its config, to change and to load


@dataclass(frozen=True)
class Clip(GradientSystem):
    """The system that trains CLIP."""

    config: ClipConfig
    name: ClassVar[str] = "clip"
    Config: ClassVar[type] = ClipConfig
    capabilities: ClassVar[tuple[type, ...]] = (Exports,)
    formats: ClassVar[tuple[Format, ...]] = ("diffusers",)

    @functools.cached_property
    def encoders(self) -> Mapping[str, LoadedNetwork]:
        """Return the encoders "text" and "vision" with only the shapes of their parameters."""
        model = self.config.model
        return {name: model.network(self.config.part(name), model.architecture) for name in PARTS}

    def encode(self, params: PyTree, name: str, x: Array) -> Any:
        """Return the outputs of an encoder for token ids ("text") or images in [-1, 1] ("vision")."""
        return self.encoders[name].bound(params[name])(x)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the config, or one learned from the captions of training.

        Raise UserError for one whose ids are not those that the text encoder reads.
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
        """Keep the tokenizer in the run's folder. Raise UserError where it differs from that of the run's start."""
        folder = epath.Path(workdir) / TOKENIZER
        same = True
        if processes.is_first():
            if presence.exists(folder):
                same = Tokenizer.open(folder).encoder.to_str() == self.tokenizer.encoder.to_str()
            else:
                self.tokenizer.write(folder)
        if not processes.agree("tokenizer", same):
            raise UserError(
                f"{folder} is not the tokenizer of these captions, which have changed; train in a new folder"
            )

    def init(self, rng: Array) -> State:
        params: dict[str, Any] = {"logit_scale": jnp.asarray(math.log(1 / self.config.loss.temperature), jnp.float32)}
        for (name, encoder), key in zip(self.encoders.items(), jax.random.split(rng, len(PARTS)), strict=True):
            params[name] = encoder.network.init(encoder.arguments, key)
        return self.fresh(params)

    def data(self, split: str) -> BatchSpec:
        data, seed, training = self.config.data, self.config.seed, split == "train"
        stream = images.open_stream(data, split, seed=seed, training=training, encode=self.tokenizer)
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
        """Return the contrastive loss; equal captions of a batch are not each other's negatives.

        Metrics: retrieval within the batch, and its chance level.
        """
        u = self.encode(params, "vision", scaled(batch["image"])).projected
        v = self.encode(params, "text", batch["tokens"]).projected
        return contrastive(u, v, params["logit_scale"], batch["caption"], batch["weight"])

    def export(self, run: Run, format: Format) -> Exported:
        """Return folders that transformers opens: text_encoder, image_encoder (both with projection), tokenizer."""
        data, folder = self.config.data, epath.Path(run.workdir) / TOKENIZER
        if not presence.is_folder(folder):
            raise UserError(f"{folder} is missing; the text encoder needs its token ids: copy the folder from the run")
        size = data.resolution
        crop = {"do_center_crop": True, "crop_size": {"height": size, "width": size}, "do_convert_rgb": True}
        edge = {"shortest_edge": size}
        processor = image_export.preprocessor(data, image_processor_type="CLIPImageProcessor", size=edge, **crop)
        components = {}
        for name, part in PARTS.items():
            tensors = self.encoders[name].network.table.to_torch(run.params[name])
            files = {PREPROCESSOR: processor} if name == "vision" else {}
            components[part] = Component(self.config.part(name), tensors, files)
        scale = f"{float(np.exp(run.params['logit_scale'])):.2f} x cosine similarity"
        return Exported(
            components,
            self._parity(run.params, folder),
            CHECK,
            {TOKENIZER: folder},
            title="CLIP, trained with dreamjax",
            usage=USAGE,
            rows={"images": image_export.images_in_words(data), "logits": scale},
            compared="`ids` of texts, their `text_states` and `text_embeds`, "
            "`images` and their `image_embeds` by dreamjax",
        )

    def _parity(self, params: PyTree, tokenizer: epath.Path) -> dict[str, np.ndarray]:
        """Return texts and two noise images in PyTorch's layout, and the encoders' outputs for them in float32."""
        exact, x = image_export.exact(self), image_export.noise(2, self.config.data.resolution)
        ids = Tokenizer.open(tokenizer)(TEXTS, warn=False)

        def everything(params: PyTree, ids: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
            text, vision = exact.encode(params, "text", ids), exact.encode(params, "vision", x)
            embeds = {"text_embeds": text.projected, "image_embeds": vision.projected}
            return {"text_states": text.last_hidden_state, **embeds}

        arrays = image_export.computed(everything, params, ids, x)
        given = {"ids": ids.astype(np.int64), "images": image_export.channels_first(x)}
        return given | {name: np.asarray(array) for name, array in arrays.items()}


SYSTEM = Clip
