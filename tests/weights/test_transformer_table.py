"""Configs and names of CLIP, DINOv2 and ViT: published ones are read, what we do not compute is refused."""

import pytest
import transformers

from dreamjax.errors import UserError
from dreamjax.weights import encoders, networks
from dreamjax.weights.table import WeightMismatch
from tests import parity
from tests import transformers_models as both

# as published with Stable Diffusion 1.5
SD_TEXT = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}
# as published with CLIP ViT-L/14 (without the fields of generation that its nested configs repeat)
CLIP_L = {
    "architectures": ["CLIPModel"],
    "initializer_factor": 1.0,
    "logit_scale_init_value": 2.6592,
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {"dropout": 0.0, "hidden_size": 512, "model_type": "clip_text_model", "top_k": 50, "top_p": 1.0},
    "text_config_dict": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "projection_dim": 768,
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "problem_type": None,
    },
    "vision_config_dict": None,
}
GIANT = {
    "architectures": ["Dinov2Model"],
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 1536,
    "image_size": 518,
    "layer_norm_eps": 1e-06,
    "layerscale_value": 1.0,
    "mlp_ratio": 4,
    "num_attention_heads": 24,
    "num_channels": 3,
    "num_hidden_layers": 40,
    "patch_size": 14,
    "qkv_bias": True,
    "use_swiglu_ffn": True,
}
VIT = {"architectures": ["ViTForImageClassification"], "id2label": {str(i): f"class {i}" for i in range(1000)}}


def test_published_configs():
    assert encoders.clip_text_arguments(SD_TEXT, "config.json") == {
        "dim": 768,
        "depth": 12,
        "heads": 12,
        "activation": "quick_gelu",
        "epsilon": 1e-5,
        "vocabulary": 49408,
        "positions": 77,
        "hidden": 3072,
        "eos": 2,
        "projection": 0,
    }
    text = encoders.clip_text_arguments(CLIP_L, "config.json")
    assert (text["dim"], text["projection"], text["eos"]) == (768, 768, 49407)
    vision = encoders.clip_vision_arguments(CLIP_L, "config.json")
    assert (vision["dim"], vision["patch"], vision["image"], vision["projection"]) == (1024, 14, 224, 768)
    giant = encoders.dinov2_arguments(GIANT, "config.json")
    assert (giant["swiglu"], giant["resize"], giant["mask_token"], giant["registers"]) == (True, "bicubic", True, 0)
    assert encoders.vit_arguments(VIT, "config.json")["classes"] == 1000


@pytest.mark.parametrize(
    ("config", "change", "told"),
    [
        (SD_TEXT, {"hidden_act": "gelu_10"}, "hidden_act is 'gelu_10'; it must be one of gelu, quick_gelu"),
        (SD_TEXT, {"hidden_size": "768"}, "hidden_size is '768', but it must be a whole number"),
        (SD_TEXT, {"num_attention_heads": 7}, "hidden_size 768 does not divide by num_attention_heads 7"),
        (SD_TEXT, {"num_hidden_layers": 0}, "num_hidden_layers is 0, but it must be at least 1"),
        (SD_TEXT, {"vocab_size": 0}, "vocab_size is 0, but it must be at least 1"),
        (SD_TEXT, {"architectures": 3}, "describes a model without a class"),
        (SD_TEXT, {"layer_norm_eps": -1.0}, "layer_norm_eps is -1.0, but it cannot be negative"),
        (SD_TEXT, {"eos_token_id": [2, 3]}, "eos_token_id is .*, but it must be a whole number"),
        (SD_TEXT, {"layer_norm_epsilon": 1e-6, "layer_norm_eps": None}, "layer_norm_eps is None"),
        (GIANT, {"image_size": [518, 224]}, "image_size is .518, 224., .*: images are square"),
        (GIANT, {"patch_size": 0}, "patch_size is 0, but it must be one whole number of pixels"),
        (GIANT, {"image_size": 7}, "image_size 7 is less than patch_size 14"),
        (GIANT | {"architectures": ["Dinov2WithRegistersModel"]}, {"num_register_tokens": 0}, "is a Dinov2Model"),
        (VIT, {"id2label": {}}, "the number of classes is 0"),
        (VIT | {"architectures": ["ViTModel"]}, {"pooler_output_size": 0}, "pooler_output_size is 0"),
        (VIT | {"architectures": ["ViTModel"]}, {"pooler_act": "relu"}, "pooler_act is 'relu', which is not supported"),
        (VIT, {"architectures": ["ViTForMaskedImageModeling"]}, "describes a ViTForMaskedImageModeling; dreamjax has"),
    ],
)
def test_reports_unsupported_configs(config, change, told):
    config = config | change
    with pytest.raises(UserError, match=rf"^config.json.*{told}") as raised:
        networks.of(config, "config.json").arguments(config, "config.json")
    assert "\n" not in str(raised.value)


TINY = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 12}
IMAGE = {"image_size": 14, "patch_size": 7}
TINY_DINO = {name: TINY[name] for name in TINY if name != "intermediate_size"} | IMAGE
TEXT = transformers.CLIPTextConfig(**TINY, vocab_size=50, max_position_embeddings=5, eos_token_id=49, bos_token_id=48)


@pytest.mark.parametrize(
    "make",
    [
        lambda: transformers.CLIPTextModel(TEXT),
        lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TINY, **IMAGE)),
        lambda: transformers.Dinov2Model(transformers.Dinov2Config(**TINY_DINO)),
        lambda: transformers.ViTModel(transformers.ViTConfig(**TINY, **IMAGE)),
        lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**TINY, **IMAGE)),
    ],
)
def test_names_of_the_state_dict_of_transformers_5(make, tmp_path):
    """Which differ from those that it writes to files, and from the older ones with position_ids."""
    module = parity.randomise(make())
    config, written = parity.saved(module, tmp_path)
    network = networks.of(config, "config.json")
    like = network.shapes(network.arguments(config, "config.json"))
    state = both.state(module)
    expected = network.table.to_torch(network.table.to_dreamjax(written, like))
    parity.same_tensors(network.table.to_torch(network.table.to_dreamjax(state, like)), expected)
    if "CLIP" in type(module).__name__:
        prefix = "text_model" if "Text" in type(module).__name__ else "vision_model"
        older = {f"{prefix}.{name}": array for name, array in state.items()}
        older[f"{prefix}.embeddings.position_ids"] = older[f"{prefix}.embeddings.position_embedding.weight"]
        parity.same_tensors(network.table.to_torch(network.table.to_dreamjax(older, like)), expected)


def test_weights_of_another_network_are_named(tmp_path):
    """A vision model's file where the text model's is wanted."""
    vision = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**TINY, **IMAGE))
    _, tensors = parity.saved(vision, tmp_path)
    config = TEXT.to_dict() | {"architectures": ["CLIPTextModel"]}
    network = networks.of(config, "config.json")
    like = network.shapes(network.arguments(config, "config.json"))
    with pytest.raises(WeightMismatch, match=r"model.safetensors: .* missing \(text_model.embeddings.token_embedding"):
        network.table.to_dreamjax(tensors, like, "model.safetensors")
