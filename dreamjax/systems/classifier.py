"""A classifier of images (ViT, Dosovitskiy et al. 2021, arXiv 2010.11929), trained on a folder of labelled ones.

Here it judges images generated from brain signals. It must not have seen the images, so it is trained on other images
of the same classes, and every score by it is shown with its held-out accuracy.
"""

import functools
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.models import flops
from dreamjax.systems import image_export
from dreamjax.systems.base import GradientSystem, Loss, Run
from dreamjax.systems.compute import GradientConfig, LayersConfig
from dreamjax.systems.exchange import Component, Exported, Exports, Format
from dreamjax.targets import images
from dreamjax.targets.features import HELD_OUT, PREPROCESSOR
from dreamjax.targets.images import ImageConfig, scaled
from dreamjax.training.checkpoints import CheckpointConfig
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.step_metrics import means, read
from dreamjax.training.task import Batch, BatchSpec, PyTree, State
from dreamjax.training.train_config import TrainConfig
from dreamjax.typing import JsonDict
from dreamjax.weights.loaded import LoadedNetwork

CHECK = """
from transformers import ViTForImageClassification
model = ViTForImageClassification.from_pretrained(".")
differences = {"logits": difference(model(pixel_values=p["images"]).logits, "logits")}
"""
USAGE = """from transformers import ViTForImageClassification, ViTImageProcessor

processor, model = ViTImageProcessor.from_pretrained("FOLDER"), ViTForImageClassification.from_pretrained("FOLDER")"""


@dataclass(frozen=True)
class ClassifierModelConfig(LayersConfig):
    """Sizes of the ViT, and how it is computed."""

    dim: int = 64
    depth: int = 3
    heads: int = 4
    patch: int = 4  # pixels along a side

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("dim", "depth", "heads", "patch"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"model.{name} is {value}, but it must be at least 1")
        if self.dim % self.heads:
            raise ValueError(f"model.dim is {self.dim}, but it must divide by model.heads = {self.heads}")


@dataclass(frozen=True)
class ClassifierConfig(GradientConfig):
    """A run of training a classifier."""

    system: Literal["classifier"] = "classifier"
    data: ImageConfig = field(default_factory=lambda: ImageConfig(resolution=32))
    model: ClassifierModelConfig = field(default_factory=ClassifierModelConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.resolution < self.model.patch:
            raise ValueError(f"data.resolution is {self.data.resolution}, less than model.patch = {self.model.patch}")


_SHAPES = ClassifierConfig(
    data=ImageConfig(resolution=32),
    optim=OptimConfig(learning_rate=2e-3, warmup_steps=30, weight_decay=0.1, beta2=0.99, clip=1.0),
    train=TrainConfig(steps=200, batch_size=64, eval_every=200, checkpoint=CheckpointConfig(every=200)),
)
PRESETS = {"shapes": _SHAPES}
preset = functools.partial(configs.preset, presets=PRESETS)  # name → its config, to change and to load


@dataclass(frozen=True)
class Classifier(GradientSystem):
    """The system that trains the classifier."""

    config: ClassifierConfig
    name: ClassVar[str] = "classifier"
    Config: ClassVar[type] = ClassifierConfig
    capabilities: ClassVar[tuple[type, ...]] = (Exports,)
    formats: ClassVar[tuple[Format, ...]] = ("diffusers",)

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Return the sorted labels of the folder's images. Raise UserError for images without labels."""
        labels = {
            entry.label for name in ("train", "val") for entry in images.split(self.config.data, name, captions=False)
        }
        if "" in labels or len(labels) < 2:
            raise UserError(
                f"{self.config.data.folder}: a classifier takes at least two classes, each image with its own; give "
                "metadata.jsonl a field label"
            )
        return tuple(sorted(labels))

    def described(self) -> JsonDict:
        """Return the config.json of the network, as transformers writes it."""
        m = self.config.model
        return {
            "architectures": ["ViTForImageClassification"],
            "model_type": "vit",
            "hidden_size": m.dim,
            "intermediate_size": 4 * m.dim,
            "num_hidden_layers": m.depth,
            "num_attention_heads": m.heads,
            "num_channels": 3,
            "image_size": self.config.data.resolution,
            "patch_size": m.patch,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "qkv_bias": True,
            "id2label": {str(i): name for i, name in enumerate(self.classes)},
            "label2id": {name: i for i, name in enumerate(self.classes)},
        }

    @functools.cached_property
    def vit(self) -> LoadedNetwork:
        """Return the network with only the shapes of its parameters."""
        return self.config.model.network(self.described(), "classifier")

    def logits(self, params: PyTree, x: Float[Array, "B H W 3"]) -> Float[Array, "B K"]:
        """Return the logits of images in [-1, 1], float32."""
        return self.vit.bound(params).logits(x).astype(jnp.float32)

    def loss(self, params: PyTree, frozen: PyTree, batch: Batch, seed: Array | int = 0, training: bool = True) -> Loss:
        """Return the cross entropy, and as a metric the share of images whose class is right."""
        logits, weight = self.logits(params, scaled(batch["image"])), batch["weight"]
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        right = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)
        return (entropy * weight).sum(), weight.sum(), {"accuracy": ((right * weight).sum(), weight.sum())}

    def init(self, rng: Array) -> State:
        return self.fresh(self.vit.network.init(self.vit.arguments, rng))

    def data(self, split: str) -> BatchSpec:
        data, seed, training = self.config.data, self.config.seed, split == "train"
        return self.spec(
            images.open_stream(data, split, seed=seed, training=training, captions=False, classes=self.classes)
        )

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        return images.element(self.config.data, label=True)

    def flops(self) -> float:
        m, side = self.config.model, self.config.data.resolution // self.config.model.patch
        return 3 * flops.vision_transformer(m.dim, m.depth, 4.0, side**2, 3 * m.patch**2)

    def export(self, run: Run, format: Format) -> Exported:
        """Return a folder that transformers opens as ViTForImageClassification; config.json has its accuracy."""
        held_out, side = self.data("val").stream, self.config.data.resolution
        accuracy = float(means(read(self.held_out(run.params, {}, held_out)))["accuracy"])
        config = self.described() | {HELD_OUT: round(accuracy, 4)}
        size = {"height": side, "width": side}
        processor = image_export.preprocessor(self.config.data, image_processor_type="ViTImageProcessor", size=size)
        x = image_export.noise(4, side)
        logits = np.asarray(image_export.computed(image_export.exact(self).logits, run.params, x))
        share = f"{accuracy:.1%} of {len(held_out)}"  # type: ignore[arg-type]
        tensors = self.vit.network.table.to_torch(run.params)
        return Exported(
            {"": Component(config, tensors, {PREPROCESSOR: processor})},
            {"images": image_export.channels_first(x), "logits": logits},
            CHECK,
            title="A classifier of images, trained with dreamjax",
            usage=USAGE,
            rows={"classes": ", ".join(self.classes), "held-out images that it names rightly": share},
            compared="`images` in [-1, 1] and their `logits` by dreamjax",
        )


SYSTEM = Classifier
