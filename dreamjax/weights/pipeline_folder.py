"""Open a pipeline as diffusers saves it: model_index.json, and a folder for each component.

pipeline = PipelineFolder.open("stable-diffusion-v1-5/stable-diffusion-v1-5")
pipeline.components          # {"vae": "AutoencoderKL", "unet": "UNet2DConditionModel", "tokenizer": …}
pipeline.config("unet")      # its config.json
pipeline.tensors("unet")     # its weights, read when asked for
pipeline.path("tokenizer")
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError, nearest
from dreamjax.storage import presence, sniffing
from dreamjax.typing import JsonDict
from dreamjax.weights import hub, weight_files
from dreamjax.weights.config_json import Config
from dreamjax.weights.table import Tensors

INDEX = "model_index.json"
USED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")  # of StableDiffusionPipeline and its …Inpaint…
KEPT = ("safety_checker", "feature_extractor", "image_encoder")  # not read; an export copies their bytes
CONFIGS = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}  # config.json for all others


@dataclass(frozen=True)
class PipelineFolder:
    """A folder of diffusers. `components`: component → class; `kept`: likewise, those that dreamjax does not use."""

    folder: epath.Path
    pipeline_class: str
    components: Mapping[str, str]
    kept: Mapping[str, str]
    index: Config
    variant: str | None = None

    @classmethod
    def open(cls, path_or_id: epath.PathLike, variant: str | None = None) -> "PipelineFolder":
        """Open a folder, or a hub id (see `hub.resolve`). `variant`: of the weights, where a component has it.

        Raises UserError for a folder without a pipeline, or without a component that its index names.
        """
        folder = hub.resolve(path_or_id, variant)
        if not presence.is_folder(folder) or not presence.exists(folder / INDEX):
            raise UserError(
                f"{folder} is not a pipeline: it has no {INDEX}; name the folder that save_pretrained wrote"
            )
        index = sniffing.read_json(folder / INDEX)
        # the entries [library, class] that are not null; such a name is also a folder's
        parts = {
            name: entry[1]
            for name, entry in index.items()
            if re.fullmatch(r"[A-Za-z]\w*", name)
            and isinstance(entry, list)
            and len(entry) == 2
            and all(isinstance(part, str) for part in entry)
        }
        if not parts or not isinstance(index.get("_class_name"), str):
            raise UserError(f"{folder / INDEX} names no components of a pipeline; fetch the folder again")
        if others := [name for name in parts if name not in USED + KEPT]:
            raise UserError(
                f"{folder / INDEX} describes a {index['_class_name']} with {' and '.join(others)}, which dreamjax does "
                f"not have; it takes a StableDiffusionPipeline of {', '.join(USED)}"
            )
        used = {name: kind for name, kind in parts.items() if name not in KEPT}
        if missing := [name for name in used if not presence.is_folder(folder / name)]:
            raise UserError(f"{folder} lacks the folders {', '.join(missing)} that its {INDEX} names; fetch them too")
        kept = {name: kind for name, kind in parts.items() if name in KEPT and presence.is_folder(folder / name)}
        return cls(folder, index["_class_name"], used, kept, index, variant)

    def path(self, name: str) -> epath.Path:
        """Return the folder of a component. Raise UserError where the pipeline has no such component."""
        if name not in self.components and name not in self.kept:
            guess = nearest(name, list(self.components))
            meant = f"; did you mean {guess}?" if guess else f"; it has {', '.join(self.components)}"
            raise UserError(f"{self.folder} ({self.pipeline_class}) has no {name}{meant}")
        return self.folder / name

    def config(self, name: str) -> JsonDict:
        """Return the config file of a component. Raise UserError where it is missing or not JSON."""
        return sniffing.read_json(epath.Path(self.source(name)))

    def source(self, name: str) -> str:
        """Return the path of the config of a component, as errors call it."""
        kind = next((known for known in CONFIGS if name.startswith(known)), None)
        return str(self.path(name) / (CONFIGS[kind] if kind else "config.json"))

    def tensors(self, name: str) -> Tensors:
        """Return the weights of a component; the plain ones, with a warning, where it lacks the variant."""
        folder = self.path(name)
        available = {weights.variant for weights in weight_files.weight_sets(p.name for p in folder.iterdir())}
        if not self.variant or self.variant in available:
            return weight_files.open_weights(folder, self.variant)
        log.warning("%s has no weights of the variant %s; the plain ones are read", folder, self.variant)
        return weight_files.open_weights(folder)
