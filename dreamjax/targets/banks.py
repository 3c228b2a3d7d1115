"""Banks: the outputs of a frozen network for every image or caption, computed once, kept, and memory-mapped.

ROOT/moments-0123456789abcdef/    named by a hash of everything that the values depend on
    values.npy    float32 [N, …], a row for each image or caption
    bank.json     what they were computed from; written last
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from dreamjax.console import Bar, log, progress
from dreamjax.parallel import processes, sharding
from dreamjax.signals.datasets.arrays import open_npy
from dreamjax.storage import atomic, manifest

FORMAT = 2  # of the files; with another one every bank is made again
VALUES, FACTS = "values.npy", "bank.json"
BUILD_S = 24 * 3600.0  # for the first process to write a bank while the others wait


def open_array(
    root: epath.PathLike,
    kind: str,
    facts: Mapping[str, object],
    count: int,
    rows: Callable[[], Iterator[np.ndarray]],
) -> np.ndarray:
    """Return the array of `count` rows that `facts` describe; compute and keep it where it does not exist yet.

    `kind`: "moments", "text", …, for the folder's name and the progress. `facts`: everything that the values depend on,
    as JSON. `rows()`: the rows, batch by batch; every process computes its share of each batch, the first one writes.
    """
    facts = {"format": FORMAT, "kind": kind, "rows": count, **facts}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    folder = epath.Path(root) / f"{kind}-{digest}"
    if not processes.agree("bank", (folder / FACTS).exists(), BUILD_S):
        log.info("%s of %d are computed once: %s", kind, count, folder)
        with progress(kind, count) as bar:
            if processes.is_first():
                with atomic.new_folder(folder, last=FACTS) as target:
                    _write(target / VALUES, count, rows(), bar)
                    (target / FACTS).write_text(json.dumps(facts, indent=1))
            else:
                for batch in rows():
                    bar.advance(len(batch))
        processes.barrier("bank written", BUILD_S)
    return open_npy(folder / VALUES)


def default_root() -> str:
    """Return $XDG_CACHE_HOME/dreamjax/banks."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "dreamjax", "banks")


def hash_of(folder: epath.Path) -> str:
    """Return a SHA-256 over the names and the bytes of a folder's files."""
    files = sorted(entry for entry in folder.iterdir() if not entry.is_dir())
    return hashlib.sha256("".join(f"{f.name}:{manifest.file_hash(f)}\n" for f in files).encode()).hexdigest()


def mapped(
    function: Callable[[PyTree, Mapping[str, jax.Array]], jax.Array],
    params: PyTree,
    rows: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    count: int,
    batch: int,
    mesh: Mesh,
) -> Iterator[np.ndarray]:
    """Yield `function(params, rows)` of rows 0 … count - 1, batch by batch on the mesh; every process gets all.

    `rows(index)` is called for this process's share only. A short last batch is padded, and the padding is dropped.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    batch = -(-min(batch, count) // shards) * shards
    local = np.array(sharding.rows_by_process(mesh, batch)[jax.process_index()])
    run = jax.jit(function, out_shardings=NamedSharding(mesh, P()))
    for first in range(0, count, batch):
        index = np.minimum(np.arange(first, first + batch), count - 1)
        with jax.set_mesh(mesh):
            values = run(params, sharding.to_devices(rows(index[local]), mesh, batch))
        yield np.asarray(values)[: count - first]


def _write(path: epath.Path, count: int, batches: Iterator[np.ndarray], bar: Bar) -> None:
    out, at = None, 0
    for rows in batches:
        if out is None:
            out = np.lib.format.open_memmap(os.fspath(path), "w+", np.float32, (count, *rows.shape[1:]))
        out[at : at + len(rows)] = rows
        at += len(rows)
        bar.advance(len(rows))
    if out is not None:
        out.flush()
