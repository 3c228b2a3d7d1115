"""Several processes as one run: joining, and barriers that give up and say who is late."""

import itertools
import json
import os
from typing import Any

import jax

from dreamjax.errors import UserError

COORDINATOR, COUNT, INDEX = "DREAMJAX_COORDINATOR", "DREAMJAX_PROCESSES", "DREAMJAX_PROCESS"
BARRIER_S = 600.0
HEARTBEAT_S = 60
_numbers = itertools.count()


def initialize(heartbeat_s: int = HEARTBEAT_S) -> None:
    """Join the run that the environment describes; does nothing for a single process.

    $DREAMJAX_COORDINATOR (host:port), $DREAMJAX_PROCESSES and $DREAMJAX_PROCESS as set by `launch/local.py`;
    $DREAMJAX_COORDINATOR=auto lets JAX read them from SLURM, GKE or the TPU's metadata.
    """
    where = os.environ.get(COORDINATOR)
    if not where or jax.distributed.is_initialized():
        return
    if where == "auto":
        jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_s)
        return
    try:
        count, index = int(os.environ[COUNT]), int(os.environ[INDEX])
    except (KeyError, ValueError) as problem:
        raise UserError(f"${COORDINATOR} is set, so ${COUNT} and ${INDEX} must be whole numbers") from problem
    jax.distributed.initialize(where, count, index, heartbeat_timeout_seconds=heartbeat_s)


def is_first() -> bool:
    """True in the one process that writes what is written once."""
    return jax.process_index() == 0


def _client() -> Any:
    from jax._src import distributed  # the only door to the coordination service; orbax uses the same

    return distributed.global_state.client


def barrier(name: str, timeout_s: float = BARRIER_S) -> None:
    """Wait for every process; each calls its barriers in the same order. Raises UserError after `timeout_s`.

    `multihost_utils.sync_global_devices` waits for ever: one slow host then holds all others.
    """
    if jax.process_count() == 1:
        return
    try:
        _client().wait_at_barrier(f"dreamjax/{next(_numbers)}/{name}", timeout_in_ms=int(timeout_s * 1000))
    except jax.errors.JaxRuntimeError as problem:
        text = str(problem).splitlines()[0]
        raise UserError(f"process {jax.process_index()} gave up waiting for the others at {name}: {text}") from problem


def tell(key: str, value: Any) -> None:
    """Leave a value (JSON-able) with the coordination service, in place of an earlier one."""
    _client().key_value_set(key, json.dumps(value), allow_overwrite=True)


def told(folder: str) -> dict[int, Any]:
    """What processes left under `folder/INDEX`: index → value. Does not wait."""
    return {int(key.rsplit("/", 1)[1]): json.loads(value) for key, value in _client().key_value_dir_get(folder)}


def agree(name: str, value: Any, timeout_s: float = BARRIER_S) -> Any:
    """The first process's `value` (JSON-able), in every process."""
    if jax.process_count() == 1:
        return value
    key = f"dreamjax/{next(_numbers)}/{name}"
    if is_first():
        _client().key_value_set(key, json.dumps(value))
    return json.loads(_client().blocking_key_value_get(key, int(timeout_s * 1000)))
