"""Signals that end the current work at once: the same command repeats it, so nothing is lost.

An exception that a handler raises may come within a finaliser or a callback of the garbage collector, from which
nothing is raised: Python prints "Exception ignored in" and goes on. Then the signal is sent again a moment later.
"""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from dreamjax.errors import TryAgain

AGAIN_S = 0.05  # until a signal is sent again
QUIET_S = 5.0


class Interrupted(KeyboardInterrupt):
    """A signal has come. Not an `Exception`, so that code in between does not treat it as a failure."""

    def __init__(self, number: int, received: list[int]) -> None:
        super().__init__()
        self.number, self.received = number, received


@contextlib.contextmanager
def raise_on_signal(signals: Sequence[int], ending: Callable[[int], BaseException]) -> Iterator[None]:
    """Raise Interrupted in the block at the first of these signals, and `ending(number)` once the block is left.

    Later ones are ignored for `QUIET_S`, so that they do not disturb the clean-up.
    """
    since, received = -math.inf, list[int]()

    def leave(number: int, _frame: FrameType | None) -> None:
        nonlocal since
        if not received or time.monotonic() - since > QUIET_S:
            received[:], since = [number], time.monotonic()
            raise Interrupted(number, received)

    def unraisable(ignored: "sys.UnraisableHookArgs") -> None:
        problem = ignored.exc_value
        if not isinstance(problem, Interrupted):
            return hook(ignored)
        problem.received.clear()
        again = threading.Timer(AGAIN_S, os.kill, (os.getpid(), problem.number))
        again.daemon = True
        again.start()

    previous = {number: signal.getsignal(number) for number in signals}
    taken = {number: old for number, old in previous.items() if old not in (None, signal.SIG_IGN)}
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        for number in taken:
            signal.signal(number, leave)
        yield
    except (Interrupted, ImportError) as problem:  # which an extension makes of it while it is loaded
        if not received:
            raise
        raise ending(received[0]) from problem
    finally:
        sys.unraisablehook = hook
        for number, old in taken.items():
            signal.signal(number, old)


@contextlib.contextmanager
def interruptible(doing: str) -> Iterator[None]:
    """End the block at once on SIGTERM and Control-C, and raise TryAgain: "stopped while {doing}".

    Also within a handler that waits for a better moment (`training.preemption`). Among several processes SIGTERM is
    left to JAX.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT,) if _are_several() else (signal.SIGTERM, signal.SIGINT)
    with raise_on_signal(
        signals, lambda _: TryAgain(f"stopped while {doing}; start the same command again to continue")
    ):
        yield


def _are_several() -> bool:
    jax = sys.modules.get("jax")  # not imported for a verb that does without it
    return jax is not None and jax.distributed.is_initialized()
