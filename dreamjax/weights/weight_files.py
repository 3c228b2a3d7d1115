"""Published weights, opened lazily: whatever files diffusers and transformers write, and those that torch.save wrote.

    tensors = open_weights("stable-diffusion/unet")  # or one file, or variant="fp16"
    tensors["conv_in.weight"].shape                  # from the header alone
    np.asarray(tensors["conv_in.weight"])            # reads this tensor, and nothing else

Nothing in a file is executed: `.bin`, `.ckpt`, `.pt` and `.pth` go through `storage.checkpoint_files.torch_files`.
"""

import mmap
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.storage import paths, sniffing
from dreamjax.storage.checkpoint_files import safetensors_files, torch_files
from dreamjax.storage.checkpoint_files.torch_pickle import StoredTensor

# (stem, ending) as the two libraries name weights, the ones that need no pickle reader first
NAMES = (
    ("diffusion_pytorch_model", "safetensors"),
    ("model", "safetensors"),
    ("diffusion_pytorch_model", "bin"),
    ("pytorch_model", "bin"),
)
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pth.tar")
WRAPPERS = ("state_dict", "model_state_dict", "model")  # under which training programs save the state dict


@dataclass(frozen=True)
class Found:
    """Weights in a list of file names: one file, or the index of several. `variant` is None for the plain ones."""

    name: str
    variant: str | None
    sharded: bool
    shards: str  # regex of the files that its index names

    def files(self, names: Iterable[str]) -> set[str]:
        """All of its files among `names`."""
        return {self.name, *(name for name in names if self.sharded and re.fullmatch(self.shards, name))}


def open_weights(folder_or_file: epath.PathLike, variant: str | None = None) -> Mapping[str, Any]:
    """Name → tensor with `shape`, `dtype` and `np.asarray`, which reads it into memory of its own.

    A folder's plain weights are taken, or those of `variant` (such as "fp16"); where there is but one variant, it is
    taken and told. Raises UserError for a folder without weights, and for files that are missing, damaged, cut short or
    of another kind.
    """
    place = paths.reachable(folder_or_file)
    if not place.exists():
        raise UserError(f"{place}: no such file or folder")
    if not place.is_dir():
        return _file(place)
    found = choose([entry.name for entry in place.iterdir()], str(place), variant)
    if found.variant != variant:
        log.warning("%s has no weights but those of the variant %s, which are read", place, found.variant)
    return _sharded(place / found.name) if found.sharded else _file(place / found.name)


def choose(names: Iterable[str], source: str, variant: str | None = None) -> Found:
    """The weights among a folder's file `names`. Raises UserError where there are none, or only several variants."""
    listed = list(names)
    found = sets(listed)
    variants = sorted({match.variant for match in found if match.variant})
    for match in found:
        if match.variant == variant:
            return match
    if variant is None and len(variants) == 1:
        return next(match for match in found if match.variant)
    if variant is not None and found:
        others = [repr(name) for name in variants] + ["None, the plain ones"] * any(not m.variant for m in found)
        raise UserError(f"{source} has no weights of the variant {variant!r}; it has {' and '.join(others)}")
    if variants:
        raise UserError(f"{source} has weights of the variants {' and '.join(variants)} alone; choose one of them")
    files = [name for name in sorted(listed) if name.endswith((".safetensors", *PICKLED))]
    wanted = " or ".join(f"{stem}.{ending}" for stem, ending in NAMES)
    also = f"; it has {', '.join(files[:5])}: name that file" if files else ""
    raise UserError(f"{source} has no weights ({wanted}){also}")


def sets(names: Iterable[str]) -> list[Found]:
    """Every set of weights among a folder's file `names`, the preferred first."""
    listed = sorted(names)
    return [found for stem, ending in NAMES for found in _sets_of(listed, stem, ending)]


def _sets_of(names: list[str], stem: str, ending: str) -> list[Found]:
    """Those of one stem: STEM[.VARIANT].ENDING, and the index of STEM[.VARIANT]-00001-of-00002.ENDING and so on.

    Where both are there, each library's own order holds: diffusers asks for the index first, transformers last.
    """
    named = r"(?:\.(?P<variant>\w+))?"
    kinds = [
        (rf"{stem}{named}\.{ending}", False),
        (rf"{stem}\.{ending}\.index{named}\.json", True),
        (rf"{stem}{named}\.{ending}\.index\.json", True),  # a variant's, as huggingface_hub names it
    ]
    found = []
    for pattern, sharded in sorted(kinds, key=lambda kind: kind[1] != stem.startswith("diffusion")):
        for match in filter(None, (re.fullmatch(pattern, name) for name in names)):
            variant = match["variant"]
            full = stem if variant is None else rf"{stem}\.{variant}"
            found.append(Found(match[0], variant, sharded, rf"{full}-\d+-of-\d+\.{ending}"))
    return found


# ------------------------------------------------------------------------------------------------------- one file, many
def _file(path: epath.Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return dict(safetensors_files.read(path))
    if path.name.endswith(PICKLED):
        return _pickled(path)
    if path.name.endswith(".json"):
        return _sharded(path)
    raise UserError(f"{path}: weights are read from files in .safetensors and {', '.join(PICKLED)}, not {path.suffix}")


def _pickled(path: epath.Path) -> dict[str, Any]:
    state = torch_files.read(path)
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    tensors = torch_files.tensors(state, str(path))
    return {name: Unmapped(t) if isinstance(t, StoredTensor) else np.asarray(t) for name, t in tensors.items()}


@dataclass(frozen=True)
class Unmapped:
    """A tensor of a mapped file that is copied out of it, and whose pages no longer count as memory after that."""

    tensor: StoredTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = np.array(self.tensor.numpy(), dtype or self.dtype)
        storage = self.tensor.storage
        if hasattr(mmap, "MADV_DONTNEED") and storage.place is not None:
            start = storage.place - storage.place % mmap.PAGESIZE
            end = storage.place + storage.length * storage.dtype.itemsize
            if end > start:
                storage.file.madvise(mmap.MADV_DONTNEED, start, end - start)
        return array


def _sharded(index: epath.Path) -> dict[str, Any]:
    """The tensors that an index names, from the files beside it that it names."""
    listed = sniffing.read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise UserError(f"{index}: this is no index of weights: it has no weight_map of tensor and file names")
    shards = list(dict.fromkeys(listed.values()))
    if outside := [name for name in shards if not re.fullmatch(r"[\w-][\w.-]*", name)]:
        raise UserError(f"{index}: {outside[0]!r:.80} is no name of a file beside it")
    if missing := [name for name in shards if not (index.parent / name).is_file()]:
        raise UserError(f"{index} names files that are not there ({', '.join(missing)}); fetch them too")
    opened = {name: _file(index.parent / name) for name in shards}
    if absent := [f"{name} in {shard}" for name, shard in listed.items() if name not in opened[shard]]:
        raise UserError(f"{index} names tensors that are not there ({', '.join(absent)}); fetch the files again")
    return {name: opened[shard][name] for name, shard in listed.items()}
