"""Import a checkpoint of another program as a run directory that evaluates, generates and exports like a trained one.

Each system defines which checkpoints it takes (`systems.exchange.Imports`): folders of `dreamjax export --to torch`,
and files of other programs. Nothing in a file is executed (see `storage.checkpoint_files.pickle_reader`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from etils import epath

from dreamjax import config as configs
from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.runs import provenance
from dreamjax.storage import atomic, locks, manifest, paths, presence, sniffing
from dreamjax.storage.checkpoint_files import safetensors_files, torch_files
from dreamjax.systems import registry
from dreamjax.systems.exchange import Checkpoint, Imported, ImportOptions, Imports
from dreamjax.training import checkpoints
from dreamjax.weights.pipeline_folder import INDEX

WEIGHTS = "model.safetensors"
PARTS = ("Enc_eeg", "Proj_eeg")  # in the names of the files that NICE's code writes, one for each part of its encoder
MAPS = "projector_state_dict"  # end of the names of further state dicts in a checkpoint


@dataclass(frozen=True)
class ImportSummary:
    """The summary of an import. `description`: the model's parts, in words; `notes`: what was assumed or left out."""

    out: str
    format: str
    sha256: str
    parameters: int
    description: Mapping[str, str | None]
    notes: Sequence[str]

    def as_json(self) -> dict[str, object]:
        fields = vars(self).copy()
        description, notes = fields.pop("description"), fields.pop("notes")
        return {**fields, **description, "notes": notes}


def import_checkpoint(
    checkpoint: epath.PathLike,
    out: epath.PathLike,
    *,
    part: Literal["whole", "encoder"] = "whole",
    heads: int | None = None,
    decoder_heads: int | None = None,
    divide: float | None = None,
    sfreq: float | None = None,
    channels: int | None = None,
) -> ImportSummary:
    """Write the run directory `out`.

    `part`: of a generative checkpoint, all of it or the encoder alone. `heads`, `decoder_heads`: for a state dict
    without a configuration. `divide`, `sfreq`: µV per unit and Hz of what the model was trained on, where the
    checkpoint does not record them. `channels`: of an encoder that reads a trial as one vector.

    Raise UserError for a file that no system takes, WeightMismatch with every missing, extra and misshapen tensor, and
    UserError where `out` exists.
    """
    out, source = paths.refuse_existing(out), epath.Path(checkpoint)
    _refuse_familiar(source)
    files = [source / WEIGHTS] if _is_export(source) else _parts(source) or [source]
    opened = _exported_folder(source) if _is_export(source) else _pickled(source, files)
    if empty := [name for name, tensor in opened.tensors.items() if 0 in getattr(tensor, "shape", ())]:
        raise UserError(f"{source}: the tensor {empty[0]!r:.80} is empty; save the weights again")
    run = _imported(opened, ImportOptions(part, heads, decoder_heads, divide, sfreq, channels))
    origin = {"format": run.format, "sha256": " ".join(manifest.file_hash(file) for file in files)}
    for note in run.notes:
        log.warning("%s", note)
    with locks.new_output(out), atomic.new_folder(out, last="config.json") as folder:
        if run.write is not None:
            run.write(folder)
        checkpoints.save_params_as_run(folder, configs.to_json(run.config), run.params, run.step)
        facts = {"origin": origin, "notes": run.notes, **run.provenance}
        manifest.write_json(folder / provenance.IMPORTED, facts)
    return ImportSummary(str(out), **origin, parameters=run.parameters, description=run.description, notes=run.notes)


def _imported(checkpoint: Checkpoint, options: ImportOptions) -> Imported:
    """Return the checkpoint as imported by the system that exported it, if known, else by the first that takes it.

    Raise UserError where no system takes it.
    """
    facts = checkpoint.settings.get("dreamjax")
    name = facts.get("system") if checkpoint.exported and isinstance(facts, Mapping) else None
    names = [name] if isinstance(name, str) else registry.names()  # folders of older versions do not state it
    importing = []
    for system in (registry.find(name, checkpoint.source) for name in names):
        if Imports in system.capabilities:
            importing.append(system.name)
            if (run := system.imported(checkpoint, options)) is not None:  # type: ignore[attr-defined]
                return run
    some = ", ".join(list(checkpoint.tensors)[:5])
    raise UserError(
        f"{checkpoint.source}: not a checkpoint that can be imported: none of {', '.join(importing)} has a model with "
        f"its {len(checkpoint.tensors)} tensors ({some} …)"
    )


def _refuse_familiar(path: epath.Path) -> None:
    """Raise UserError for a folder that other verbs open directly, and for a part of one that this verb opens."""
    if presence.exists(path / INDEX):
        raise UserError(f"{path}: this is a pipeline of diffusers; dreamjax generate --model opens it as it is")
    if presence.is_folder(path / "checkpoints"):
        raise UserError(f"{path}: this is a run of dreamjax already; evaluate, generate and export take it as it is")
    if presence.is_folder(path) and not _is_export(path) and not _parts(path):
        raise UserError(
            f"{path}: neither an export to torch (there is no config.json or no {WEIGHTS}) nor the weights of NICE "
            f"(one .pth file each with {' and '.join(PARTS)} in its name)"
        )
    if path.suffix == ".safetensors":
        raise UserError(f"{path}: give the folder that dreamjax export --to torch wrote around it, or a .pth file")


def _is_export(path: epath.Path) -> bool:
    return presence.is_folder(path) and presence.exists(path / "config.json") and presence.exists(path / WEIGHTS)


def _exported_folder(folder: epath.Path) -> Checkpoint:
    """Return what `dreamjax export --to torch` wrote, or `save_pretrained` of its module after fine-tuning."""
    manifest.check_export(folder)
    config = sniffing.read_json(folder / "config.json", "fetch the folder again")
    if not isinstance(config.get("dreamjax"), dict):
        raise UserError(f"{folder}/config.json was not written by dreamjax: it has no entry dreamjax")
    return Checkpoint(str(folder), safetensors_files.read(folder / WEIGHTS), config, exported=True)


def _parts(path: epath.Path) -> list[epath.Path]:
    """Return the files of NICE's encoder in a folder; none where it is not such a folder.

    Raise UserError where there are several of one part.
    """
    if not presence.is_folder(path):
        return []
    files = [file for file in presence.entries(path) if file.suffix == ".pth"]
    by_part = {part: [file for file in files if part in file.name] for part in PARTS}
    for part, some in by_part.items():
        if len(some) > 1:
            raise UserError(f"{path}: {len(some)} files have {part} in their name; leave those of one model there")
    return [file for some in by_part.values() for file in some] if all(by_part.values()) else []


def _pickled(path: epath.Path, files: Sequence[epath.Path]) -> Checkpoint:
    """Return the state dict of a `.pth` file, and its settings; of several files under the name of each one's part."""
    if files != [path]:
        each = zip(PARTS, (_state_dict(file).tensors for file in files), strict=True)
        return Checkpoint(str(path), {f"{part}.{name}": x for part, tensors in each for name, x in tensors.items()}, {})
    return _state_dict(path)


def _state_dict(path: epath.Path) -> Checkpoint:
    """Return the state dict of a `.pth` file, and the settings that were pickled with it."""
    tree = torch_files.read(path)
    if not isinstance(tree, Mapping):
        raise UserError(f"{path}: this file holds no state dict; give a checkpoint of a model")
    state = next((tree[key] for key in ("model", "model_state_dict", "state_dict") if key in tree), tree)
    if not isinstance(state, Mapping):
        raise UserError(f"{path}: its weights are not a state dict; save model.state_dict() and not the model")
    tensors = {str(name).removeprefix("module."): value for name, value in state.items()}
    for key, further in tree.items():  # NeuroBridge keeps its maps to the common space by themselves
        if str(key).endswith(MAPS) and isinstance(further, Mapping):
            part = str(key).removesuffix("_state_dict")
            tensors |= {f"{part}.{name}": value for name, value in further.items()}
    config = tree.get("config")
    attributes = getattr(config, "attributes", config)  # of a pickled configuration, whose class is not imported
    settings = torch_files.plain(attributes, str(path)) if isinstance(attributes, Mapping) else {}
    return Checkpoint(str(path), tensors, settings)
