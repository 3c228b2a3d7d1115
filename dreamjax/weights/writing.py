"""Write weights into files with the names and bytes of diffusers and transformers."""

import hashlib
import json
import math
import re
from collections.abc import Mapping

import numpy as np
from etils import epath
from numpy.typing import DTypeLike

from dreamjax.errors import UserError
from dreamjax.storage import atomic
from dreamjax.storage.checkpoint_files import safetensors_files
from dreamjax.weights.table import Tensors

MAX_SHARD_BYTES = 10 * 10**9  # as diffusers has it; transformers splits at 50 GB
CHUNK = 1 << 22


def write_safetensors(
    folder: epath.PathLike,
    stem: str,
    tensors: Tensors,
    *,
    dtype: DTypeLike | None = None,
    variant: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[str]:
    """Write `tensors` (in the order of PyTorch's state dict) as STEM.safetensors; return the names of the files.

    `stem`: "diffusion_pytorch_model" for diffusers, "model" for transformers. `dtype`: the type of floating-point
    tensors; others keep theirs. More than `max_shard_bytes` are split into STEM-00001-of-00002.safetensors … with an
    index, written last. Tensors are read one at a time. Earlier weights of the same stem and variant are deleted.
    """
    folder = epath.Path(folder)
    kinds = {name: _stored_dtype(np.dtype(tensor.dtype), dtype) for name, tensor in tensors.items()}
    sizes = {name: math.prod(tensor.shape) * kinds[name].itemsize for name, tensor in tensors.items()}
    shards = _shards(sizes, max_shard_bytes)
    full = stem if variant is None else f"{stem}.{variant}"
    single, index = f"{full}.safetensors", f"{stem}.safetensors.index{f'.{variant}' if variant else ''}.json"
    files = (
        [single]
        if len(shards) == 1
        else [f"{full}-{k:05d}-of-{len(shards):05d}.safetensors" for k, _ in enumerate(shards, 1)]
    )
    for file, names in zip(files, shards, strict=True):
        safetensors_files.write(folder / file, {name: tensors[name] for name in names}, kinds)
    if len(shards) > 1:
        where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        content = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where}
        atomic.write_text(folder / index, json.dumps(content, indent=2, sort_keys=True) + "\n")
        files.append(index)
    for entry in list(folder.iterdir()):
        of_these = entry.name in (single, index) or re.fullmatch(
            rf"{re.escape(full)}-\d{{5,}}-of-\d{{5,}}\.safetensors", entry.name
        )
        if of_these and entry.name not in files:
            entry.unlink()
    return files


def _stored_dtype(dtype: np.dtype, wanted: DTypeLike | None) -> np.dtype:
    floating = dtype.kind in "fV"  # ml_dtypes' types are of kind V
    return dtype if wanted is None or not floating else np.dtype(wanted)


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


def copy_component(source_folder: epath.PathLike, target_folder: epath.PathLike) -> dict[str, str]:
    """Copy every file of a component that was not trained, byte for byte; return file name → SHA-256.

    Files are copied also where a download cache links them. Raises UserError for a missing or empty folder.
    """
    source, target = epath.Path(source_folder), epath.Path(target_folder)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    hashes = _copied(source, target, "")
    if not hashes:
        raise UserError(f"{source}: the folder is empty, so there is nothing to copy")
    return hashes


def _copied(source: epath.Path, target: epath.Path, within: str) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for entry in sorted(source.iterdir(), key=str):
        if entry.is_dir():
            hashes |= _copied(entry, target / entry.name, f"{within}{entry.name}/")
            continue
        hashes[f"{within}{entry.name}"] = copy_file(entry, target / entry.name)
    return hashes


def copy_file(source: epath.PathLike, target: epath.PathLike) -> str:
    """Copy one file byte for byte; return its SHA-256."""
    digest = hashlib.sha256()
    with epath.Path(source).open("rb") as read, atomic.new_file(epath.Path(target)) as written:
        while chunk := read.read(CHUNK):
            digest.update(chunk)
            written.write(chunk)
    return digest.hexdigest()
