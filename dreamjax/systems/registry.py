"""The systems by name: which dataclass describes a config, and which Task it makes."""

import importlib
from typing import Any

from ml_collections import ConfigDict

from dreamjax.errors import UserError, nearest
from dreamjax.training.task import Task

# config.system → (module, dataclass of its config, its Task); a module is imported when its system is asked for
SYSTEMS = {
    "masked_pretraining": ("dreamjax.systems.masked_pretraining", "MaskedPretrainingConfig", "MaskedPretraining"),
    "text_to_image": ("dreamjax.systems.text_to_image", "TextToImageConfig", "TextToImage"),
    "dreamdiffusion": ("dreamjax.systems.dreamdiffusion", "DreamDiffusionConfig", "DreamDiffusion"),
    "autoencoder": ("dreamjax.systems.autoencoder", "AutoencoderConfig", "Autoencoder"),
    "classifier": ("dreamjax.systems.classifier", "ClassifierConfig", "Classifier"),
    "clip": ("dreamjax.systems.clip", "ClipConfig", "Clip"),
}


def _entry(system: Any, source: str) -> tuple[Any, Any]:
    if system not in SYSTEMS:
        guess = nearest(str(system), list(SYSTEMS))
        hint = f"did you mean {guess}?" if guess else f"there are {', '.join(SYSTEMS)}"
        raise UserError(f"{source}: system is {system!r}, which is none of dreamjax's; {hint}")
    module, config, task = SYSTEMS[system]
    loaded = importlib.import_module(module)
    return getattr(loaded, config), getattr(loaded, task)


def schema_of(config: ConfigDict, source: str = "config") -> Any:
    """The dataclass that describes a ConfigDict, by its key `system`. Raises UserError for an unknown one."""
    if "system" not in config:
        raise UserError(f"{source}: a config says which system it is for: system = one of {', '.join(SYSTEMS)}")
    return _entry(config["system"], source)[0]


def build(config: Any) -> Task:
    """The Task of a config dataclass."""
    return _entry(config.system, "config")[1](config)
