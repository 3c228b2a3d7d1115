"""A pipeline as diffusers saves it: model_index.json, and a folder for each part.

pipeline = PipelineFolder.open("stable-diffusion-v1-5/stable-diffusion-v1-5")
pipeline.components          # {"vae": "AutoencoderKL", "unet": "UNet2DConditionModel", "tokenizer": …}
pipeline.config("unet")      # its config.json
pipeline.tensors("unet")     # its weights, read when asked for
pipeline.path("tokenizer")
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError, nearest
from dreamjax.storage import sniffing
from dreamjax.weights import hub, weight_files

INDEX = "model_index.json"
USED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")  # of StableDiffusionPipeline and its …Inpaint…
KEPT = ("safety_checker", "feature_extractor", "image_encoder")  # not read; an export copies their bytes
CONFIGS = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}  # config.json for all others


@dataclass(frozen=True)
class PipelineFolder:
    """`components` and `kept`: part → its class. `kept` are those that dreamjax does not use."""

    folder: epath.Path
    pipeline_class: str
    components: Mapping[str, str]
    kept: Mapping[str, str]
    index: Mapping[str, Any]
    variant: str | None = None

    @classmethod
    def open(cls, path_or_id: epath.PathLike, variant: str | None = None) -> "PipelineFolder":
        """A folder, or a hub id (see `hub.resolve`). `variant`: of the weights, where a part has it.

        Raises UserError for a folder that holds no pipeline, or not all the parts that its index names.
        """
        folder = hub.resolve(path_or_id, variant)
        if not folder.is_dir() or not (folder / INDEX).exists():
            raise UserError(f"{folder} is no pipeline: it has no {INDEX}; name the folder that save_pretrained wrote")
        index = sniffing.read_json(folder / INDEX)
        parts = _parts(index)
        if not parts or not isinstance(index.get("_class_name"), str):
            raise UserError(f"{folder / INDEX} names no parts of a pipeline; fetch the folder again")
        if others := [name for name in parts if name not in USED + KEPT]:
            raise UserError(
                f"{folder / INDEX} describes a {index['_class_name']} with {' and '.join(others)}, which dreamjax does "
                f"not have; it takes a StableDiffusionPipeline of {', '.join(USED)}"
            )
        used = {name: kind for name, kind in parts.items() if name not in KEPT}
        if missing := [name for name in used if not (folder / name).is_dir()]:
            raise UserError(f"{folder} lacks the folders {', '.join(missing)} that its {INDEX} names; fetch them too")
        kept = {name: kind for name, kind in parts.items() if name in KEPT and (folder / name).is_dir()}
        return cls(folder, index["_class_name"], used, kept, index, variant)

    def path(self, name: str) -> epath.Path:
        """The folder of a part. Raises UserError where the pipeline has no such part."""
        if name not in self.components and name not in self.kept:
            guess = nearest(name, list(self.components))
            meant = f"; did you mean {guess}?" if guess else f"; it has {', '.join(self.components)}"
            raise UserError(f"{self.folder} ({self.pipeline_class}) has no {name}{meant}")
        return self.folder / name

    def config(self, name: str) -> dict[str, Any]:
        """What the part's config file says. Raises UserError where it is missing or no JSON."""
        return sniffing.read_json(self._config_file(name))

    def source(self, name: str) -> str:
        """What errors call the part's config."""
        return str(self._config_file(name))

    def _config_file(self, name: str) -> epath.Path:
        kind = next((known for known in CONFIGS if name.startswith(known)), None)
        return self.path(name) / (CONFIGS[kind] if kind else "config.json")

    def tensors(self, name: str) -> Mapping[str, Any]:
        """The part's weights (see `files.open_weights`); the plain ones, and told, where it has not the variant."""
        folder = self.path(name)
        if not self.variant or self.variant in {
            found.variant for found in weight_files.sets(p.name for p in folder.iterdir())
        }:
            return weight_files.open_weights(folder, self.variant)
        log.warning("%s has no weights of the variant %s; the plain ones are read", folder, self.variant)
        return weight_files.open_weights(folder)


def _parts(index: Mapping[str, Any]) -> dict[str, str]:
    """Part → class, of the entries [library, class] that are not null. Such a name is a folder's, and nothing else."""
    return {
        name: entry[1]
        for name, entry in index.items()
        if re.fullmatch(r"[A-Za-z]\w*", name)
        and isinstance(entry, list)
        and len(entry) == 2
        and all(isinstance(part, str) for part in entry)
    }
