"""Several processes as one run: joining, barriers with a time limit, values that all processes agree on."""

import contextlib
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

import jax

from dreamjax.console import log
from dreamjax.errors import TryAgain, UserError
from dreamjax.parallel.environment import COORDINATOR, COUNT, HEARTBEAT, INDEX, JOIN, LOCAL_DEVICES, RESUME_HINT

LOST = (  # what the messages of a lost process contain
    *("Gloo", "Connection reset by peer", "Connection closed by peer", "remote process exited", "coordination service"),
)
JOIN_S = 300  # for all processes to join
BARRIER_S = 600.0
HEARTBEAT_S = 60
LEAVE_S = 10.0
TAKEN_S = 3.0  # for a run that has just ended to free its port
_numbers = itertools.count()
T = TypeVar("T")


def initialize() -> None:
    """Join the run that the environment describes; does nothing for a single process.

    $DREAMJAX_COORDINATOR (host:port), $DREAMJAX_PROCESSES and $DREAMJAX_PROCESS as set by `dreamjax launch local`;
    $DREAMJAX_COORDINATOR=auto lets JAX read them from SLURM, GKE or the TPU's metadata. $DREAMJAX_LOCAL_DEVICES: how
    many GPUs of its host a process has, where it is the only one there (under SLURM JAX takes one otherwise).
    $DREAMJAX_JOIN_SECONDS: how long processes wait for each other; $DREAMJAX_HEARTBEAT_SECONDS: how long one may be
    silent before it counts as lost.
    Raise UserError for invalid variables, TryAgain where no coordinator answers.
    """
    where = os.environ.get(COORDINATOR)
    if not where or jax.distributed.is_initialized():
        return
    join_s = _whole_number(JOIN, JOIN_S, least=1)
    heartbeat_s = _whole_number(HEARTBEAT, HEARTBEAT_S, least=1)
    options: dict[str, Any] = {"heartbeat_timeout_seconds": heartbeat_s, "initialization_timeout": join_s}
    if os.environ.get(LOCAL_DEVICES):
        options["local_device_ids"] = range(_whole_number(LOCAL_DEVICES, least=1))
    if where != "auto":
        count, index = _whole_number(COUNT), _whole_number(INDEX)
        if not 0 <= index < count:
            raise UserError(f"${INDEX} is {index}, but it must lie from 0 to {count - 1}, as ${COUNT} is {count}")
        address = _address(where)
        _reach(address, join_s) if index else _refuse_taken(address)
        options |= {"coordinator_address": where, "num_processes": count, "process_id": index}
    late = f"after {join_s:g} s not all processes of the run have joined at {where}; start the same command again"
    timer = threading.Timer(join_s - 0.5, log.error, ("dreamjax: %s", late))  # just before JAX aborts this process
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(**options)
    except (ValueError, RuntimeError) as problem:  # no cluster that JAX knows; or it gave up
        reason = str(problem).strip().partition("\n")[0].rstrip(".")
        raise UserError(
            f"the processes of the run cannot join (${COORDINATOR} is {where!r}: {reason}); give HOST:PORT of "
            f"process 0, with ${COUNT} and ${INDEX}, or unset ${COORDINATOR} for a single process"
        ) from problem
    finally:
        timer.cancel()


def _whole_number(name: str, default: int | None = None, least: int = 0) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdecimal() or int(text) < least:
        raise UserError(
            f"${name} is {text!r}, but where ${COORDINATOR} is set it must be a whole number of at least {least}"
        )
    return int(text)


def _address(where: str) -> tuple[str, int]:
    """Return the coordinator's host and port. Raise UserError for an invalid address."""
    host, colon, port = where.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(f"${COORDINATOR} is {where!r}, but it must be HOST:PORT or auto")
    try:
        host.encode("idna")
    except UnicodeError as problem:  # a label of the name is empty or too long
        raise UserError(f"${COORDINATOR} is {where!r}, whose host is not a valid host name") from problem
    return host.strip("[]"), int(port)


def _refuse_taken(address: tuple[str, int]) -> None:
    """Raise TryAgain where another program listens at the port that this process, the first, has to listen at.

    A run that has just ended may hold it for some seconds. JAX would say so in a traceback.
    """
    deadline = time.monotonic() + TAKEN_S
    while True:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                return sock.bind(("", address[1]))
            except OSError as problem:
                if time.monotonic() > deadline:
                    raise TryAgain(
                        f"port {address[1]} of ${COORDINATOR} cannot be used by process 0 ({problem.strerror}); "
                        "wait until the program that uses it has ended, or give another port to all processes"
                    ) from problem
        time.sleep(0.2)


def _reach(address: tuple[str, int], within_s: float) -> None:
    """Wait until something listens at the coordinator's address: JAX would abort the process from C++ if it never did.

    Raise after `within_s` seconds: UserError where no host has that name yet (in Kubernetes it gets one when it
    starts), else TryAgain.
    """
    deadline, reason, unknown = time.monotonic() + within_s, "no answer", False
    while time.monotonic() < deadline:
        try:
            socket.create_connection(address, timeout=5).close()
            return
        except OSError as problem:
            reason, unknown = problem.strerror or str(problem), isinstance(problem, socket.gaierror)
            time.sleep(0.2)
    where = ":".join(map(str, address))
    if unknown:
        raise UserError(
            f"${COORDINATOR} is {where!r}, but there is no host {address[0]} after {within_s:g} s ({reason}); give "
            "that of process 0"
        )
    raise TryAgain(
        f"no coordinator answers at {where} after {within_s:g} s ({reason}); check that process 0 runs there and that "
        f"the port is open, or set a longer time (${JOIN})"
    )


def lost_peer(problem: Exception) -> str | None:
    """Return a sentence where a collective failed because another process is lost; None for other failures.

    The coordination service detects by missing heartbeats which process it is, and JAX then aborts this process with
    its name in the message, which `parallel.watcher` reports. So this waits for that first.
    """
    if not are_several() or not any(sign in str(problem) for sign in LOST):
        return None
    time.sleep(_whole_number(HEARTBEAT, HEARTBEAT_S, least=1) + 15)
    return f"process {jax.process_index()} cannot go on, as another process of the run is gone; {RESUME_HINT}"


def are_several() -> bool:
    """Return whether the run has several processes."""
    return jax.distributed.is_initialized()


def leave(code: int) -> NoReturn:
    """End this process at once: at a normal exit JAX would wait for the others, which wait for this one.

    An error (codes 1 and 2) often happens in all processes. When the first one exits, JAX aborts the others, whose
    parents would take that for a lost process and start again: so they meet at a barrier, for at most `LEAVE_S`, and
    the first process exits last.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if code in (1, 2):
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            _client().wait_at_barrier("dreamjax/leave", timeout_in_ms=int(LEAVE_S * 1000))
            time.sleep(0.5 if is_first() else 0.0)
    os._exit(code)


def is_first() -> bool:
    """Return whether this is the first process, which writes files that are written once."""
    return jax.process_index() == 0


def _client() -> Any:
    from jax._src import distributed  # the only access to the coordination service; orbax uses the same

    return distributed.global_state.client


@contextlib.contextmanager
def _within(what: str) -> Iterator[None]:
    """Raise TryAgain where waiting for other processes fails."""
    try:
        yield
    except jax.errors.JaxRuntimeError as problem:
        reason = str(problem).splitlines()[0]
        raise TryAgain(f"process {jax.process_index()} gave up waiting for {what}: {reason}") from problem


def barrier(name: str, timeout_s: float = BARRIER_S) -> None:
    """Wait for every process; each calls its barriers in the same order. Raise TryAgain after `timeout_s`.

    `multihost_utils.sync_global_devices` has no time limit.
    """
    if jax.process_count() > 1:
        with _within(f"the others at {name}"):
            _client().wait_at_barrier(f"dreamjax/{next(_numbers)}/{name}", timeout_in_ms=int(timeout_s * 1000))


def publish(key: str, value: object) -> None:
    """Store a JSON value in the coordination service, replacing an earlier one."""
    _client().key_value_set(key, json.dumps(value), allow_overwrite=True)


def published(folder: str) -> dict[int, Any]:
    """Return the values that processes stored under `folder/INDEX`, by index. Does not wait."""
    return {int(key.rsplit("/", 1)[1]): json.loads(value) for key, value in _client().key_value_dir_get(folder)}


def wait_for_key(key: str, within_s: float) -> bool:
    """Return whether a value is stored under `key` within that time."""
    try:
        _client().blocking_key_value_get(key, int(within_s * 1000))
    except jax.errors.JaxRuntimeError as problem:
        if "DEADLINE_EXCEEDED" not in str(problem) and "GetKeyValue() timed out" not in str(problem):
            raise
        return False
    return True


def delete_keys(folder: str) -> None:
    """Delete the values stored under `folder`."""
    _client().key_value_delete(folder)


def agree(name: str, value: T, timeout_s: float = BARRIER_S) -> T:
    """Return the first process's `value` (JSON) in every process."""
    if jax.process_count() == 1:
        return value
    key = f"dreamjax/{next(_numbers)}/{name}"
    if is_first():
        _client().key_value_set(key, json.dumps(value))
    with _within(f"process 0 at {name}"):
        return json.loads(_client().blocking_key_value_get(key, int(timeout_s * 1000)))
