"""A cache of compiled programs that is kept across runs, and how many programs of this process came from it.

Of several processes only the first writes, so that no file is written twice at once; all read. The key of a program
contains the devices as its process sees them. Those of a TPU are the same to all processes; on CPU they differ, and
the other processes compile for themselves (jax 0.10.2). `jax_share_binary_between_hosts` must then stay off: the first
process finds its program in the cache, and the others would wait for it to send one.
"""

import os

import jax

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.storage import paths

SHORTEST_S = 0.2  # programs that take longer to compile are kept: the text encoder takes one second
SHORTEST = "jax_persistent_cache_min_compile_time_secs"
HITS, ASKED = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/compile_requests_use_cache"
_counts = dict.fromkeys((HITS, ASKED), 0)


def _note(event: str, **_: object) -> None:
    if event in _counts:
        _counts[event] += 1


jax.monitoring.register_event_listener(_note)


def use(where: str) -> None:
    """Keep compiled programs in the folder `where` (auto: the default one); $JAX_COMPILATION_CACHE_DIR overrides it."""
    if not where:
        return
    keep_from(SHORTEST_S)
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    if where == "auto":
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        where = os.path.join(base, "dreamjax", "compiled")
        try:
            paths.private_folder(where)  # its contents are executed
        except UserError as problem:
            log.warning("compiled programs are not kept for the next run: %s", problem)
            return
        except OSError:
            return  # nothing can be kept there
    jax.config.update("jax_compilation_cache_dir", where)


def keep_all() -> None:
    """Keep every program, however short it compiles: a sweep of small models has many."""
    keep_from(0)


def keep_from(seconds: float) -> None:
    """Keep programs that compile that long or longer, without raising a lower threshold or one of the environment."""
    if SHORTEST.upper() not in os.environ:
        jax.config.update(SHORTEST, min(seconds, getattr(jax.config, SHORTEST)))


def counts() -> dict[str, int]:
    """Return how many programs were requested so far, and how many came from the cache."""
    return {"programs": _counts[ASKED], "from_cache": _counts[HITS]}
