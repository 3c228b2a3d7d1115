"""Processes of this machine: all of a small run, or the one that a cluster starts on each host. Both are watched."""

import sys
from collections.abc import Sequence

from dreamjax.console import log
from dreamjax.parallel import watcher
from dreamjax.pods.launch_config import IN_PARTS, check_command


def here(
    arguments: Sequence[str],
    processes: int,
    devices: int | None = None,
    grace_s: float = watcher.GRACE_S,
    restarts: int = 0,
) -> int:
    """`dreamjax ARGUMENTS` as so many processes of one run; their common exit code (`parallel.watcher`).

    Started again up to `restarts` times when one of them is lost, not when this process is told to stop.
    """
    check_command(arguments)
    command = _command(arguments)
    for left in range(restarts, -1, -1):
        ended = watcher.run_local(command, processes, devices, grace_s)
        if ended.code != watcher.TEMPORARY_FAILURE or ended.signalled or not left:
            return ended.code
        log.info("started again (%d of %d)", restarts - left + 1, restarts)
    raise AssertionError


def host(arguments: Sequence[str], grace_s: float = watcher.GRACE_S) -> int:
    """`dreamjax ARGUMENTS` as this host's one process of a run that the environment describes, or a part of a sweep."""
    check_command(arguments, sweeps=True)
    return watcher.run_one(_command(arguments), grace_s, joins=arguments[0] != IN_PARTS).code


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "dreamjax", *arguments]
