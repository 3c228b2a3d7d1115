"""Waits and preparations that a signal ends at once: the same command does them again, so nothing is lost with them."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from dreamjax.errors import TryAgain


class _Interrupted(KeyboardInterrupt):
    """Not an `Exception`, so that code between the signal and `interruptible` does not take it for a failure."""


@contextlib.contextmanager
def interruptible(doing: str) -> Iterator[None]:
    """End the block at once on SIGTERM and Control-C, and raise TryAgain: "stopped while {doing}".

    Also within a handler that waits for a better moment (`training.preemption`). Later signals are ignored until the
    block has been left, so that nothing half-written stays. Among several processes SIGTERM is left to JAX.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def leave(_signum: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise _Interrupted

    signals = (signal.SIGINT,) if _are_several() else (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.getsignal(number) for number in signals}
    taken = {number: old for number, old in previous.items() if old not in (None, signal.SIG_IGN)}
    try:
        for number in taken:
            signal.signal(number, leave)
        yield
    except _Interrupted:
        raise TryAgain(f"stopped while {doing}; start the same command again to continue") from None
    finally:
        for number, old in taken.items():
            signal.signal(number, old)


def _are_several() -> bool:
    jax = sys.modules.get("jax")  # not imported for a verb that does without it
    return jax is not None and jax.distributed.is_initialized()
