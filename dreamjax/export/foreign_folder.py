"""Read the folder that `dreamjax export --to torch` wrote (or `save_pretrained`, after fine-tuning in PyTorch)."""

import json
from typing import Any

from etils import epath

from dreamjax.errors import UserError
from dreamjax.storage.checkpoint_files import safetensors_files

HEAD = ("final_layer.weight", "final_layer.bias")  # of a classifier, which a run of pretraining has no place for


def is_export(path: epath.Path) -> bool:
    """Whether `path` is a folder with a model in it."""
    return path.is_dir() and (path / "config.json").exists() and (path / "model.safetensors").exists()


def read(folder: epath.Path, make: Any) -> Any:
    """`make(format, tensors, config, provenance, notes)` of an exported folder."""
    described = _json(folder / "config.json")
    facts = described.get("dreamjax")
    if not isinstance(facts, dict) or "data" not in facts:
        raise UserError(f"{folder}/config.json is not one that dreamjax wrote: it has no entry dreamjax")
    tensors = safetensors_files.read(folder / "model.safetensors")
    notes = []
    if [name for name in HEAD if tensors.pop(name, None) is not None]:
        notes.append("final_layer was left out: a pretraining run has no head")
    config = {
        "model": {"heads": described.get("num_heads"), "decoder_heads": described.get("decoder_num_heads")},
        "data": {**facts["data"], **{name: described.get(name) for name in ("sfreq", "scaling", "divide", "clip")}},
        "mask": facts.get("mask", {}),
        "loss": facts.get("loss", {}),
    }
    said = {
        "corpora": _corpora(facts.get("corpora")),
        "preprocessing": facts["preprocessing"] if isinstance(facts.get("preprocessing"), list) else [],
        "reference": str(facts.get("reference", "unknown")),
        "channels": _channels(described.get("chs_info")),
        "exported": {name: str(facts.get(name)) for name in ("version", "step", "config_sha256")},
    }
    return make("a folder that dreamjax exported", tensors, config, said, notes)


def _corpora(value: Any) -> dict[str, Any] | None:
    """The corpora, where every one lists its licences as text; otherwise they are unknown."""
    if not isinstance(value, dict) or not all(isinstance(corpus, dict) for corpus in value.values()):
        return None
    listed = [corpus.get("licences") for corpus in value.values()]
    plain = all(isinstance(found, list) and found and all(isinstance(x, str) for x in found) for found in listed)
    return value if plain else None


def _channels(value: Any) -> list[dict[str, Any]] | None:
    good = isinstance(value, list) and all(isinstance(c, dict) and isinstance(c.get("ch_name"), str) for c in value)
    return value if good else None


def _json(path: epath.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{path}: this is no JSON ({problem}); fetch the folder again") from problem
    if not isinstance(found, dict):
        raise UserError(f"{path}: this is no configuration; fetch the folder again")
    return found
