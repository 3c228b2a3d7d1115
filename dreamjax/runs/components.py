"""Where the components of a latent diffusion model come from: one folder, several, or named sizes."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from etils import epath

from dreamjax.errors import UserError
from dreamjax.runs import shapes
from dreamjax.storage import sniffing
from dreamjax.typing import JsonDict
from dreamjax.weights import hub, weight_files
from dreamjax.weights.config_json import Config
from dreamjax.weights.pipeline_folder import CONFIGS, PipelineFolder
from dreamjax.weights.table import Tensors

# the keys of a config that may be a folder, or (but for the last) a hub id
FOLDERS = (
    *("model.path", "model.vae", "model.text_encoder", "model.tokenizer"),
    *("encoder.path", "target.embedding.path", "target.folder"),
)
RUN = "{run}"  # at the beginning of model.path: the run's own folder, wherever it was moved to
C = TypeVar("C")  # a config dataclass


def with_absolute_paths(config: C) -> C:
    """Return a run's config with absolute paths of its networks' folders, so that the run opens from any folder."""
    for key in FOLDERS:
        config = _changed(config, key.split("."), lambda path: os.path.abspath(path) if os.path.isdir(path) else path)
    return config


def with_run_folder(config: C, workdir: epath.PathLike) -> C:
    """Return a run's config with `RUN` in model.path replaced by the run's present folder."""

    def present(path: str) -> str:
        return str(epath.Path(workdir) / path.removeprefix(f"{RUN}/")) if path.startswith(f"{RUN}/") else path

    return _changed(config, ["model", "path"], present)


def _changed(part: C, keys: list[str], change: Callable[[str], str]) -> C:
    """Return a config with the text at a dotted key changed, where it has that key and a text there."""
    value = getattr(part, keys[0], None)
    if not value:
        return part
    new = _changed(value, keys[1:], change) if keys[1:] else change(value)
    return part if new == value else dataclasses.replace(part, **{keys[0]: new})  # type: ignore[type-var]


@dataclass(frozen=True)
class Components:
    """The components unet, vae, text_encoder, tokenizer and scheduler of a model, with the methods of `PipelineFolder`.

    A component is taken from its own folder (`parts`), else from the pipeline, and its config, where it has no folder,
    from the named sizes of `architecture`.
    """

    pipeline: PipelineFolder | None = None
    parts: Mapping[str, epath.Path] = field(default_factory=dict)
    architecture: Mapping[str, Config] = field(default_factory=dict)

    @classmethod
    def of(
        cls, path: str = "", *, variant: str | None = None, architecture: str = "", parts: Mapping[str, str]
    ) -> "Components":
        """Open components. `path`: a pipeline's folder or hub id; `parts`: component → its own folder; "" for none."""
        return cls(
            PipelineFolder.open(path, variant) if path else None,
            {name: hub.resolve(folder) for name, folder in parts.items() if folder},
            shapes.get(architecture) if architecture else {},
        )

    def has(self, name: str) -> bool:
        """Return whether the component has a folder, and so weights."""
        return name in self.parts or (self.pipeline is not None and name in self.pipeline.components)

    def path(self, name: str) -> epath.Path:
        """Return the folder of a component. Raise UserError where it has none."""
        if name in self.parts:
            return self.parts[name]
        if self.pipeline is None:
            raise UserError(f"the model has no {name}: set model.path, or model.{name} where there is such a key")
        return self.pipeline.path(name)

    def config(self, name: str) -> JsonDict:
        """Return the config of a component, as diffusers and transformers write it. Raise UserError without one."""
        if self.has(name):
            return sniffing.read_json(self.path(name) / CONFIGS.get(name, "config.json"))
        if name in self.architecture:
            return dict(self.architecture[name])
        raise UserError(
            f"the model has no {name}: set model.path to a pipeline's folder, or model.architecture to sizes"
        )

    def tensors(self, name: str) -> Tensors:
        """Return the weights of a component, which are read lazily."""
        if name in self.parts:
            return weight_files.open_weights(self.parts[name])
        if self.pipeline is None:
            raise UserError(f"there are no weights for the {name}: set model.path to a pipeline's folder")
        return self.pipeline.tensors(name)

    def source(self, name: str) -> str:
        """Return what errors call the config of a component."""
        return f"{self.path(name)}/{CONFIGS.get(name, 'config.json')}" if self.has(name) else f"architecture {name}"
