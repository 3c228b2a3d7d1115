"""A classifier run → a folder that transformers opens as ViTForImageClassification.

config.json, model.safetensors, preprocessor_config.json, parity.safetensors, README.md; config.json tells the share of
held-out images that it names rightly.
"""

import json
from typing import Any

import jax
import numpy as np
from etils import epath

import dreamjax
from dreamjax.export.comparison import Compare, Library
from dreamjax.export.diffusers_export import TOLERANCE
from dreamjax.storage.checkpoint_files import safetensors_files
from dreamjax.systems import opening
from dreamjax.systems.classifier import Classifier
from dreamjax.targets.features import HELD_OUT
from dreamjax.targets.images import FILTERS
from dreamjax.training.step_metrics import means, read
from dreamjax.weights import writing

LIBRARY = Library(
    "transformers",
    "from transformers import ViTForImageClassification",
    """
model = ViTForImageClassification.from_pretrained(".")
found = {"logits": difference(model(pixel_values=p["images"]).logits, "logits")}
""",
)
CARD = """# A classifier of images, trained with dreamjax

```python
from transformers import ViTForImageClassification, ViTImageProcessor

processor, model = ViTImageProcessor.from_pretrained("FOLDER"), ViTForImageClassification.from_pretrained("FOLDER")
```

| | |
|---|---|
| written by | dreamjax {version}, step {step} ({examples:,} examples) |
| classes | {classes} |
| held-out images that it names rightly | {accuracy:.1%} of {count} |

`parity.safetensors` holds `images` in [-1, 1] and their `logits` by dreamjax; PyTorch's differ by at most
{tolerance:g} of the largest magnitude.
"""


def write(folder: epath.Path, run: opening.Run, compare: Compare) -> dict[str, Any]:
    """Every file of the export, in an existing folder; returns what the command says of it."""
    task: Classifier = run.task  # type: ignore[assignment]
    images = task.data("val")
    accuracy = means(read(task.held_out(run.params, {}, images.stream)))["accuracy"]
    described = task.described() | {HELD_OUT: round(float(accuracy), 4)}
    network, _ = task.network
    writing.write_safetensors(folder, "model", network.table.to_torch(run.params))
    for name, fields in (("config.json", described), ("preprocessor_config.json", preprocessing(task))):
        (folder / name).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    side = run.config.data.resolution
    x = np.random.default_rng(0).uniform(-1, 1, (4, side, side, 3)).astype(np.float32)
    logits = np.asarray(jax.jit(task.logits)(run.params, x))
    saved = {"images": np.ascontiguousarray(x.transpose(0, 3, 1, 2)), "logits": logits}
    safetensors_files.write(folder / "parity.safetensors", saved)
    (folder / "README.md").write_text(
        CARD.format(
            version=dreamjax.__version__,
            step=run.step,
            examples=run.examples,
            classes=", ".join(task.classes),
            accuracy=accuracy,
            count=len(images.stream),  # type: ignore[arg-type]
            tolerance=TOLERANCE,
        )
    )
    return {
        "parameters": opening.parameter_count(run.params),
        "differences": compare(folder),
    }


def preprocessing(task: Classifier) -> dict[str, Any]:
    """What training does to images, as transformers' ViTImageProcessor reads it (of square images)."""
    side, half = task.config.data.resolution, [0.5, 0.5, 0.5]
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": FILTERS[task.config.data.resample],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": half,
        "image_std": half,
    }
