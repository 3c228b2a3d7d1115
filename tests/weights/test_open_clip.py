"""OpenCLIP's own layout of vision transformers: equal to the same weights in that of transformers; its config."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from dreamjax.errors import UserError
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.storage import image_files
from dreamjax.targets import preprocessing
from dreamjax.targets.banks import BankConfig, open_bank
from dreamjax.targets.features import VisionModel
from dreamjax.weights import open_clip
from tests import parity

VISION = {"image_size": 28, "layers": 2, "width": 24, "head_width": 8, "patch_size": 7, "mlp_ratio": 2.5}
CONFIG = {"model_cfg": {"embed_dim": 5, "vision_cfg": VISION, "text_cfg": {"width": 8}}, "preprocess_cfg": {}}


def write(folder: Path, module: torch.nn.Module, config: dict) -> None:
    """Write the weights of transformers' CLIPVisionModelWithProjection under OpenCLIP's names."""
    folder.mkdir()
    state = {name.removeprefix("vision_model."): tensor for name, tensor in module.state_dict().items()}
    renamed = {
        "visual.class_embedding": state["embeddings.class_embedding"],
        "visual.conv1.weight": state["embeddings.patch_embedding.weight"],
        "visual.positional_embedding": state["embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T,
        "positional_embedding": torch.zeros(3, 8),
        "transformer.resblocks.0.ln_1.weight": torch.zeros(8),
        "logit_scale": torch.zeros(()),
    }
    for ours, theirs in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        renamed |= {f"visual.{ours}.{leaf}": state[f"{theirs}.{leaf}"] for leaf in ("weight", "bias")}
    for i in range(VISION["layers"]):  # type: ignore[call-overload]
        old, new = f"encoder.layers.{i}", f"visual.transformer.resblocks.{i}"
        for leaf in ("weight", "bias"):
            fused = torch.cat([state[f"{old}.self_attn.{name}_proj.{leaf}"] for name in "qkv"])
            renamed[f"{new}.attn.in_proj_{leaf}"] = fused
            names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
            names |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
            renamed |= {f"{new}.{ours}.{leaf}": state[f"{old}.{theirs}.{leaf}"] for ours, theirs in names.items()}
    save_file({name: tensor.contiguous() for name, tensor in renamed.items()}, folder / "open_clip_model.safetensors")
    (folder / open_clip.CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize("quick", [False, True])
def test_equals_the_same_weights_in_transformers(quick: bool, tmp_path: Path) -> None:
    """At tiny size, with heads of another width than 64 as in ViT-H/14 (80) and bigG/14 (104)."""
    config = transformers.CLIPVisionConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=60, image_size=28, patch_size=7,
        projection_dim=5, hidden_act="quick_gelu" if quick else "gelu",
    )  # fmt: skip
    module = parity.randomise(transformers.CLIPVisionModelWithProjection(config))
    described = CONFIG | {"model_cfg": CONFIG["model_cfg"] | {"quick_gelu": quick}}  # type: ignore[operator]
    write(tmp_path / "model", module, described)
    (tmp_path / "images").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    image_files.write_png(tmp_path / "images" / "one.png", image)
    pixels = preprocessing.Preprocessing(edge=28, crop=(28, 28))([image])
    with torch.no_grad():
        theirs = module(torch.from_numpy(pixels).permute(0, 3, 1, 2), output_hidden_states=True)

    def vectors(**options: Any) -> np.ndarray:
        where = {"path": str(tmp_path / "model"), "images": str(tmp_path / "images"), "bank": str(tmp_path / "bank")}
        return open_bank(BankConfig(**where, **options), ("one.png",), meshes.make(MeshConfig())).vectors

    assert parity.difference(vectors(), theirs.image_embeds) < 1e-4
    assert parity.difference(vectors(layer=1), theirs.hidden_states[1][:, 1:].mean(1)) < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [3, 4, 6, 3]}, "residual network; name its file of weights"),
        ({"head_width": 7}, "width 24 does not divide by head_width 7"),
        ({"timm_model_name": "vit"}, "timm_model_name is 'vit', which is not supported"),
        ({"pool_type": "avg"}, "pool_type is 'avg', which is not supported"),
    ],
)
def test_refuses_other_kinds_of_models(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_clip.arguments({"model_cfg": {"embed_dim": 5, "vision_cfg": VISION | change}}, "config")


def test_reports_missing_weights_and_other_transforms(tmp_path: Path) -> None:
    (tmp_path / open_clip.CONFIG).write_text(json.dumps(CONFIG))
    with pytest.raises(UserError, match="has no weights of OpenCLIP"):
        VisionModel.open(tmp_path, meshes.make(MeshConfig()))
    with pytest.raises(UserError, match="resize_mode is 'squash', which is not supported"):
        preprocessing.from_open_clip({"resize_mode": "squash"}, 28, "config")
    with pytest.raises(UserError, match="takes images of 28 pixels a side"):
        preprocessing.from_open_clip({"size": 224}, 28, "config")
