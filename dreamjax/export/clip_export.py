"""A clip run → folders that transformers opens.

text_encoder/      CLIPTextModelWithProjection, and CLIPTextModel, which leaves the projection out
image_encoder/     CLIPVisionModelWithProjection, with the preprocessor_config.json of its images
tokenizer/         CLIPTokenizer
parity.safetensors
README.md
"""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
from etils import epath

import dreamjax
from dreamjax.errors import UserError
from dreamjax.export.comparison import Compare, Library
from dreamjax.export.diffusers_export import TOLERANCE
from dreamjax.storage.checkpoint_files import safetensors_files
from dreamjax.systems import clip, opening
from dreamjax.systems.clip import ClipConfig
from dreamjax.targets.images import FILTERS
from dreamjax.targets.tokens import Tokenizer
from dreamjax.weights import networks, writing

TEXTS = ["a small red circle on the left", "A LARGE blue star, at the top right!", ""]
LIBRARY = Library(
    "transformers",
    "from transformers import CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection",
    f"TEXTS = {TEXTS!r}"
    """
ids = CLIPTokenizer.from_pretrained("tokenizer")(TEXTS, padding="max_length", truncation=True, return_tensors="pt")
text = CLIPTextModelWithProjection.from_pretrained("text_encoder")(input_ids=p["ids"])
image = CLIPVisionModelWithProjection.from_pretrained("image_encoder")(p["images"])
found = {
    "ids": float((ids.input_ids != p["ids"]).any()),
    "text states": difference(text.last_hidden_state, "text_states"),
    "text embeddings": difference(text.text_embeds, "text_embeds"),
    "image embeddings": difference(image.image_embeds, "image_embeds"),
}
""",
)
CARD = """# CLIP, trained with dreamjax

```python
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection

tokenizer = CLIPTokenizer.from_pretrained("FOLDER/tokenizer")
text_encoder = CLIPTextModelWithProjection.from_pretrained("FOLDER/text_encoder")
image_encoder = CLIPVisionModelWithProjection.from_pretrained("FOLDER/image_encoder")     # images in [-1, 1]
```

| | |
|---|---|
| written by | dreamjax {version}, step {step} ({examples:,} examples), {weights} weights |
| images | {images}, {resolution} x {resolution} pixels |
| logits | {scale:.2f} x cosine similarity |

`parity.safetensors` holds `ids` of texts, their `text_states` and `text_embeds`, `images` and their `image_embeds` by
dreamjax; PyTorch's differ by at most {tolerance:g} of the largest magnitude.
"""


def write(folder: epath.Path, run: opening.Run, compare: Compare) -> dict[str, Any]:
    """Every file of the export, in an existing folder; returns what the command says of it."""
    config: ClipConfig = run.config
    kept = epath.Path(run.workdir) / clip.TOKENIZER
    if not kept.is_dir():
        raise UserError(f"{kept} is missing, and without it the text encoder's ids mean nothing; copy it from the run")
    tokenizer = Tokenizer.open(kept)
    for name, part in clip.PARTS.items():
        described = config.part(name)
        (folder / part).mkdir()
        writing.write_safetensors(
            folder / part, "model", networks.of(described, run.workdir).table.to_torch(run.params[name])
        )
        (folder / part / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
    (folder / clip.PARTS["vision"] / "preprocessor_config.json").write_text(
        json.dumps(preprocessing(config), indent=2, sort_keys=True) + "\n"
    )
    writing.copy_component(kept, folder / clip.TOKENIZER)
    safetensors_files.write(folder / "parity.safetensors", parity(config, run.params, tokenizer))
    (folder / "README.md").write_text(
        CARD.format(
            version=dreamjax.__version__,
            step=run.step,
            examples=run.examples,
            weights="averaged" if run.averaged else "last",
            images=epath.Path(config.data.folder).name or "unknown",
            resolution=config.data.resolution,
            scale=float(np.exp(run.params["logit_scale"])),
            tolerance=TOLERANCE,
        )
    )
    return {
        "parameters": opening.parameter_count(run.params),
        "differences": compare(folder),
    }


def preprocessing(config: ClipConfig) -> dict[str, Any]:
    """What training does to images, as transformers' CLIPImageProcessor reads it."""
    size, half = config.data.resolution, [0.5, 0.5, 0.5]
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": FILTERS[config.data.resample],
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": half,
        "image_std": half,
        "do_convert_rgb": True,
    }


def parity(config: ClipConfig, params: Any, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Texts and two images of noise in PyTorch's layout, and what the encoders make of them in float32."""
    exact = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="float32", attention="auto"))
    size, ids = config.data.resolution, tokenizer(TEXTS, warn=False)
    x = np.random.default_rng(0).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)

    def everything(params: Any, ids: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        text = clip.bind(exact, params, "text")(ids)
        return text.last_hidden_state, text.projected, clip.image_features(exact, params, x)

    with jax.default_matmul_precision("highest"):
        states, texts, images = jax.jit(everything)(params, ids, x)
    return {
        "ids": ids.astype(np.int64),
        "images": np.ascontiguousarray(x.transpose(0, 3, 1, 2)),
        "text_states": np.asarray(states),
        "text_embeds": np.asarray(texts),
        "image_embeds": np.asarray(images),
    }
