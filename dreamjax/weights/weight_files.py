"""Published weights: opened lazily from files of diffusers, transformers and torch.save, written as the first two do.

    tensors = open_weights("stable-diffusion/unet")  # or one file, or variant="fp16"
    tensors["conv_in.weight"].shape                  # from the header alone
    np.asarray(tensors["conv_in.weight"])            # reads this tensor, and nothing else

Nothing in a file is executed: `.bin`, `.ckpt`, `.pt` and `.pth` go through `storage.checkpoint_files.torch_files`.
"""

import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.storage import atomic, manifest, paths, presence, sniffing
from dreamjax.storage.checkpoint_files import safetensors_files, torch_files
from dreamjax.storage.checkpoint_files.safetensors_files import Tensor
from dreamjax.storage.checkpoint_files.torch_pickle import TorchTensor
from dreamjax.weights.table import Tensors

# (stem, ending) as the two libraries name weights; those that need no pickle reader first
NAMES = (
    ("diffusion_pytorch_model", "safetensors"),
    ("model", "safetensors"),
    ("diffusion_pytorch_model", "bin"),
    ("pytorch_model", "bin"),
)
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pth.tar")
MAX_SHARD_BYTES = 10 * 10**9  # of files that are written, as diffusers has it; transformers splits at 50 GB
WRAPPERS = ("state_dict", "model_state_dict", "model")  # under which training programs save the state dict


@dataclass(frozen=True)
class WeightSet:
    """One set of weights in a folder: one file, or the index of several. `variant` is None for the plain ones."""

    name: str
    variant: str | None
    sharded: bool
    shards: str  # regex of the files that its index names

    def files(self, names: Iterable[str]) -> set[str]:
        """Return all of its files among `names`."""
        return {self.name, *(name for name in names if self.sharded and re.fullmatch(self.shards, name))}


def open_weights(folder_or_file: epath.PathLike, variant: str | None = None) -> Tensors:
    """Return name → tensor with `shape`, `dtype` and `np.asarray`, which reads it into new memory.

    A folder's plain weights are taken, or those of `variant` (such as "fp16"); where there is only one variant, it is
    taken with a warning. Raises UserError for a folder without weights, and for files that are missing, damaged, cut
    short or of another kind.
    """
    place = paths.reachable(folder_or_file)
    if not presence.exists(place):
        raise UserError(f"{place}: no such file or folder")
    if not presence.is_folder(place):
        return _file(place)
    chosen = choose_set([entry.name for entry in place.iterdir()], str(place), variant)
    if chosen.variant != variant:
        log.warning("%s has only weights of the variant %s, which are read", place, chosen.variant)
    return _sharded(place / chosen.name) if chosen.sharded else _file(place / chosen.name)


def choose_set(names: Iterable[str], source: str, variant: str | None = None) -> WeightSet:
    """Return the weights among a folder's files. Raise UserError where there are none, or only several variants."""
    listed = list(names)
    available = {match.variant: match for match in weight_sets(listed)[::-1]}  # of equals the preferred one
    variants = sorted(name for name in available if name)
    if variant in available:
        return available[variant]
    if variant is None and len(variants) == 1:
        return available[variants[0]]
    if variant is not None and available:
        others = [repr(name) for name in variants] + ["None, the plain ones"] * (None in available)
        raise UserError(f"{source} has no weights of the variant {variant!r}; it has {' and '.join(others)}")
    if variants:
        raise UserError(f"{source} has only weights of the variants {' and '.join(variants)}; choose one of them")
    files = [name for name in sorted(listed) if name.endswith((".safetensors", *PICKLED))]
    wanted = " or ".join(f"{stem}.{ending}" for stem, ending in NAMES)
    also = f"; it has {', '.join(files[:5])}: name that file" if files else ""
    raise UserError(f"{source} has no weights ({wanted}){also}")


def weight_sets(names: Iterable[str]) -> list[WeightSet]:
    """Return every set of weights among a folder's file `names`, the preferred first.

    A set is STEM[.VARIANT].ENDING, or the index of STEM[.VARIANT]-00001-of-00002.ENDING …. Where both exist, each
    library's own order holds: diffusers asks for the index first, transformers last.
    """
    listed, matches = sorted(names), []
    named = r"(?:\.(?P<variant>\w+))?"
    for stem, ending in NAMES:
        kinds = [
            (rf"{stem}{named}\.{ending}", False),
            (rf"{stem}\.{ending}\.index{named}\.json", True),
            (rf"{stem}{named}\.{ending}\.index\.json", True),  # a variant's, as huggingface_hub names it
        ]
        for pattern, sharded in sorted(kinds, key=lambda kind: kind[1] != stem.startswith("diffusion")):
            for match in filter(None, (re.fullmatch(pattern, name) for name in listed)):
                variant = match["variant"]
                full = stem if variant is None else rf"{stem}\.{variant}"
                matches.append(WeightSet(match[0], variant, sharded, rf"{full}-\d+-of-\d+\.{ending}"))
    return matches


# ------------------------------------------------------------------------------------------------------- one file, many
def _file(path: epath.Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return dict(safetensors_files.read(path))
    if path.name.endswith(PICKLED):
        return _pickled(path)
    if path.name.endswith(".json"):
        return _sharded(path)
    raise UserError(f"{path}: weights are read from files in .safetensors and {', '.join(PICKLED)}, not {path.suffix}")


def _pickled(path: epath.Path) -> dict[str, Tensor]:
    state = torch_files.read(path)
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    tensors = torch_files.tensors(state, str(path))
    return {name: t if isinstance(t, TorchTensor) else np.asarray(t) for name, t in tensors.items()}


def _sharded(index: epath.Path) -> dict[str, Tensor]:
    """Return the tensors that an index names, from the files next to it."""
    listed = sniffing.read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise UserError(f"{index}: this is not an index of weights: it has no weight_map of tensor and file names")
    shards = list(dict.fromkeys(listed.values()))
    if outside := [name for name in shards if not re.fullmatch(r"[\w-][\w.-]*", name)]:
        raise UserError(f"{index}: {outside[0]!r:.80} is not the name of a file next to it")
    if others := [name for name in shards if not name.endswith((".safetensors", *PICKLED))]:  # such as the index itself
        raise UserError(f"{index}: {others[0]!r:.80} is not a file of weights")
    if missing := [name for name in shards if not presence.is_file(index.parent / name)]:
        raise UserError(f"{index} names missing files ({', '.join(missing)}); fetch them too")
    opened = {name: _file(index.parent / name) for name in shards}
    if absent := [f"{name} in {shard}" for name, shard in listed.items() if name not in opened[shard]]:
        raise UserError(f"{index} names missing tensors ({', '.join(absent)}); fetch the files again")
    return {name: opened[shard][name] for name, shard in listed.items()}


def write_safetensors(
    folder: epath.PathLike, stem: str, tensors: Tensors, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> list[str]:
    """Write `tensors` (in the order of PyTorch's state dict) as STEM.safetensors; return the names of the files.

    `stem`: "diffusion_pytorch_model" for diffusers, "model" for transformers. More than `max_shard_bytes` are split
    into STEM-00001-of-00002.safetensors … with an index, written last. Tensors are read one at a time. Earlier
    weights in the folder stay.
    """
    folder = epath.Path(folder)
    sizes = {name: math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize for name, tensor in tensors.items()}
    shards = _shards(sizes, max_shard_bytes)
    files = [f"{stem}-{k:05d}-of-{len(shards):05d}.safetensors" for k, _ in enumerate(shards, 1)]
    files = [f"{stem}.safetensors"] if len(shards) == 1 else files
    for file, names in zip(files, shards, strict=True):
        safetensors_files.write(folder / file, {name: tensors[name] for name in names})
    if len(shards) > 1:
        where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        content = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where}
        files.append(f"{stem}.safetensors.index.json")
        atomic.write_text(folder / files[-1], json.dumps(content, indent=2, sort_keys=True) + "\n")
    return files


def _shards(sizes: Mapping[str, int], largest: int) -> list[list[str]]:
    """Return names by file of at most `largest` bytes, filled in order; a tensor above it gets a separate file.

    Such a file comes before the one that was being filled, as in huggingface_hub's `split_state_dict_into_shards`.
    """
    shards: list[list[str]] = []
    current: list[str] = []
    filled = 0
    for name, size in sizes.items():
        if size > largest:
            shards.append([name])
            continue
        if filled + size > largest:
            shards.append(current)
            current, filled = [], 0
        current.append(name)
        filled += size
    return [*shards, current] if current or not shards else shards


def copy_component(source_folder: epath.PathLike, target_folder: epath.PathLike) -> None:
    """Copy every file of a component that was not trained, byte for byte, also where a download cache links them.

    Raises UserError for a missing or empty folder.
    """
    source, target = epath.Path(source_folder), epath.Path(target_folder)
    if not presence.is_folder(source):
        raise UserError(f"{source}: no such folder")
    files = manifest.files_of(source)
    if not files:
        raise UserError(f"{source}: the folder is empty, so there is nothing to copy")
    for file in files:
        copy_file(file, target / file.relative_to(source))


def copy_file(source: epath.PathLike, target: epath.PathLike) -> None:
    """Copy one file byte for byte."""
    with epath.Path(source).open("rb") as read, atomic.new_file(target) as written:
        shutil.copyfileobj(read, written, manifest.CHUNK)
