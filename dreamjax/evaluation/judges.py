"""Trained networks that judge generated images, opened from the files and folders that a user names.

    networks, notes = judges.open_judges(["alexnet-owt-7be5be79.pth", "alex.pth", "clip-vit-large-patch14"])
    image_scores.columns(trials, sources, networks)

A folder or hub id holds a CLIP, DINOv2 or ViT of transformers; a file holds a network of `weights.detect`. Features and
preprocessing are those of Brain-Diffuser's suite (Ozcelik & VanRullen 2023), and for LPIPS and FID their authors'.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, UInt8

from dreamjax.errors import UserError
from dreamjax.evaluation.image_scores import Comparison, Judge
from dreamjax.models.encoders import CLIPVision, DINOv2
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel import sharding
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.storage import manifest, presence
from dreamjax.targets.features import EmbeddingConfig, VisionModel
from dreamjax.targets.preprocessing import BILINEAR, Preprocessing
from dreamjax.training.task import PyTree
from dreamjax.weights import detect, loaded, weight_files
from dreamjax.weights.detect import DetectedNetwork
from dreamjax.weights.loaded import LoadedNetwork

BATCH = 64  # images at a time
IMAGENET = Preprocessing(None, (224, 224), BILINEAR, None, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# torchvision's Inception converts ImageNet's normalisation to this one itself
HALVES = Preprocessing(None, (224, 224), BILINEAR, None, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
FID_SIDE = 299  # pixels, bilinear without antialiasing, as in pytorch-fid

# kind of `weights.detect` → the columns that are missing without it
ABSENT = {
    "alexnet": "no two-way identification by AlexNet",
    "inception": "no two-way identification by Inception",
    "efficientnet": "no EfficientNet distance",
    "resnet50": "no SwAV distance",
    "lpips_layers": "no LPIPS",
    "fid": "no FID, KID and Inception Score",
}


def open_judges(paths: Sequence[str], mesh: Mesh | None = None) -> tuple[list[Judge], list[str]]:
    """Return the judges in the order of `paths`, and notes on the origin of each and on missing metrics.

    Raise UserError for a file of another or an untrained network, and for LPIPS without its AlexNet.
    """
    mesh = meshes.make(MeshConfig()) if mesh is None else mesh
    networks, notes = [], []
    files = [path for path in paths if presence.exists(path) and not presence.is_folder(path)]
    opened = {path: detect.recognise(weight_files.open_weights(path), path) for path in files}
    for path in paths:
        if path not in opened:
            networks.append(of_folder(path, mesh))
            continue
        others = [one for one in opened.values() if one is not opened[path]]
        networks.append(_of_file(opened[path], path, others, mesh))
        notes.append(_origin(opened[path], path))
    keys = {one.kind.key for one in opened.values()}
    keys |= {"lpips_layers"} if "lpips" in keys else set()
    absent = [kind for kind in detect.KINDS if kind.key in ABSENT and kind.key not in keys]
    notes += [f"{ABSENT[kind.key]}: it takes {' or '.join(kind.files)} as a judge" for kind in absent]
    return networks, notes


def _origin(network: DetectedNetwork, path: str) -> str:
    """Return whether it is the published file, whose name ends with the first digits of its SHA-256."""
    name, digest = epath.Path(path).name, manifest.file_hash(path)
    for published in network.kind.files:
        digits = published.partition(".")[0].rpartition("-")[2]
        if len(digits) == 8 and digest.startswith(digits):
            return f"{name} is the published {published} ({network.kind.title})"
    unknown = f"has the SHA-256 {digest[:8]}…, which is not a published file: its training is unknown"
    return f"{name} ({network.kind.title}) {unknown}"


def _of_file(network: DetectedNetwork, path: str, others: Sequence[DetectedNetwork], mesh: Mesh) -> Judge:
    key, tensors = network.kind.key, network.tensors
    if key == "lpips_layers":
        alexnet = next((other for other in others if other.kind.key == "alexnet"), None)
        if alexnet is None:
            file = next(kind.files[0] for kind in detect.KINDS if kind.key == "alexnet")
            raise UserError(f"{path} holds the layers of LPIPS without their network; name {file} as a judge too")
        tensors = {**alexnet.tensors, **tensors}
    part = loaded.filled(network.kind.network, network.arguments, tensors, path, mesh)
    program = functools.partial(_program, part.params, mesh)

    def features(params: PyTree, pixels: Array) -> Array | dict[str, Array]:
        return part.bound(params).features(pixels)

    def distance(params: PyTree, made: Array, true: Array) -> Array:
        return part.bound(params)(*(x.astype(jnp.float32) / 127.5 - 1 for x in (made, true)))

    if key == "alexnet":
        layers = program(features, IMAGENET)
        return Judge("AlexNet", lambda x: {f"AlexNet({layer})": value for layer, value in layers(x).items()})
    if key == "inception":
        return Judge("Inception", program(lambda p, x: features(p, x)["2048"], HALVES))
    if key == "fid":
        return Judge("Inception of FID", sets=program(functools.partial(_of_sets, part)))
    if key in ("efficientnet", "resnet50"):  # a file with a classifier may be anything that was trained so
        residual = "ResNet-50" if "fc.weight" in tensors else "SwAV"
        name = residual if key == "resnet50" else "EfficientNet-B1"
        return Judge(name, program(features, IMAGENET), compares=("distance",))
    return Judge("LPIPS", pair=program(distance))


def _of_sets(part: LoadedNetwork, params: PyTree, images: Array) -> dict[str, Array]:
    """Return features of two widths, and probabilities from logits without bias, as in the code of Inception Score."""
    x = images.astype(jnp.float32) / 127.5 - 1
    x = jax.image.resize(x, (len(x), FID_SIDE, FID_SIDE, 3), "bilinear", antialias=False)
    model = part.bound(params)
    features = model.features(x)
    probabilities = jax.nn.softmax(model.logits(features["2048"], bias=False))
    return {"2048": features["2048"], "64": features["64"], "probabilities": probabilities}


def of_folder(path: str, mesh: Mesh) -> Judge:
    """Open CLIP and DINOv2: two-way identification and the cosine; ViT: two-way identification. Raise UserError."""
    model = VisionModel.open(path, mesh)
    arguments, build = model.part.arguments, model.part.network.build
    pooling: Any = "projected" if arguments.get("projection") else "cls" if arguments.get("classes") else "pooled"
    compares: tuple[Comparison, ...] = ("two-way", "cosine") if build in (CLIPVision, DINOv2) else ("two-way",)
    return Judge(epath.Path(path).name, of_model(model, EmbeddingConfig(path, pooling), mesh), compares=compares)


def of_model(model: VisionModel, config: EmbeddingConfig, mesh: Mesh) -> Callable[[np.ndarray], np.ndarray]:
    """Return uint8 images [k, H, W, 3] → the embedding that `config` names, [k, F]."""

    def embed(params: PyTree, pixels: Array) -> Array:
        return model.embed(params, pixels, config)

    return _program(model.part.params, mesh, embed, model.prepare)


def open_classifier(path: str, mesh: Mesh) -> Judge:
    """Open a ViTForImageClassification, for N-way accuracy. Raise UserError for any other folder."""
    model = VisionModel.open(path, mesh)
    if not model.part.arguments.get("classes"):
        raise UserError(f"{path} is not a classifier; name a ViTForImageClassification")
    known = "accuracy unknown" if model.accuracy is None else f"right for {model.accuracy:.0%} of held-out images"

    def probabilities(params: PyTree, pixels: Array) -> Array:
        return jax.nn.softmax(model.part.bound(params).logits(pixels))

    name = f"{epath.Path(path).name} ({known})"
    return Judge(name, probabilities=_program(model.part.params, mesh, probabilities, model.prepare))


def _program(
    params: PyTree, mesh: Mesh, function: Callable, prepare: Preprocessing | None = None
) -> Callable[..., Any]:
    """Compile images, uint8 [k, H, W, 3], on the mesh BATCH at a time → `function(params, images)` as NumPy.

    Compiled once for a size of images, and for few of them once for a power of two; the last batch is filled up.
    """
    run = jax.jit(function, out_shardings=NamedSharding(mesh, P()))
    shards = mesh.shape["data"] * mesh.shape["fsdp"]

    def view(*images: UInt8[np.ndarray, "k H W 3"]) -> Any:
        count, outputs = len(images[0]), []
        size = shards * (1 << max(0, -(-min(count, BATCH) // shards) - 1).bit_length())
        for first in range(0, count, size):
            rows = {str(k): x[first : first + size] for k, x in enumerate(images)}
            if prepare is not None:
                rows = {k: prepare(list(x)) for k, x in rows.items()}
            filled = {k: np.concatenate([x, np.repeat(x[-1:], size - len(x), axis=0)]) for k, x in rows.items()}
            # the products of features are compared with each other: accelerators would round them to bfloat16
            with jax.set_mesh(mesh), jax.default_matmul_precision("float32"):
                placed = sharding.to_devices(filled, mesh, size)
                result = run(params, *(placed[str(k)] for k in range(len(images))))
            outputs.append(jax.tree.map(lambda x: np.asarray(x)[: count - first], result))  # noqa: B023
        return jax.tree.map(lambda *x: np.concatenate(x), *outputs)

    return view
