"""Compiled programs kept across runs, and how many of this process's came from there.

Of several processes the first one writes, so that they do not write the same file at once, and all read. A program is
found by a key that also has the devices in it as its process sees them: those of a TPU are the same to all, but on CPU
they are not, and there the others compile for themselves (jax 0.10.2). `jax_share_binary_between_hosts` must then stay
off: the first one finds its program, and the others wait for it to send them one.
"""

import os

import jax

HITS, ASKED = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/compile_requests_use_cache"
_counts = dict.fromkeys((HITS, ASKED), 0)


def _note(event: str, **_: object) -> None:
    if event in _counts:
        _counts[event] += 1


jax.monitoring.register_event_listener(_note)


def use(where: str) -> None:
    """Keep compiled programs across runs; $JAX_COMPILATION_CACHE_DIR, where set, has its way."""
    if not where or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    if where == "auto":
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        where = os.path.join(base, "dreamjax", "compiled")
    jax.config.update("jax_compilation_cache_dir", where)


def keep_all() -> None:
    """Also programs that compile within a second: of a sweep of small models there are many."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def counts() -> dict[str, int]:
    """Programs that were looked for in the cache so far, and those that were found."""
    return {"programs": _counts[ASKED], "from_cache": _counts[HITS]}
