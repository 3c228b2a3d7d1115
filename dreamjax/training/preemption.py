"""On SIGTERM or Control-C: save, then exit with code 75 (EX_TEMPFAIL), so that the same command continues the run."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax

from dreamjax.errors import TryAgain
from dreamjax.interruption import Interrupted
from dreamjax.parallel.environment import RESUME_HINT

EXIT_CODE = TryAgain.exit_code
NOTICE = b"\ndreamjax: Control-C: saving at the end of this step; press it again to end without saving\n"


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Add how to continue to a Control-C that ends the run without saving."""
    try:
        yield
    except Interrupted:  # SIGTERM, or a Control-C that says how to continue
        raise
    except KeyboardInterrupt as interrupted:
        raise KeyboardInterrupt(RESUME_HINT) from interrupted


class Watch:
    """`with Watch() as watch:` … `watch.requested()` after each step: every process gets True at the same step.

    In a single process a signal handler notes the signal; a watch within another passes it on when it ends. Among
    several processes JAX's notifier handles SIGTERM, Control-C is turned into it, and they agree on a step through the
    coordination service. A second Control-C raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._interrupted = False
        self._calls = 0
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> "Watch":
        if threading.current_thread() is not threading.main_thread():
            return self
        if jax.process_count() == 1:
            self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._note)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # which a command in the background ignores
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._note)
        for previous in self._previous.values():  # a signal that the watch around this one got meanwhile
            if isinstance(outer := getattr(previous, "__self__", None), Watch) and outer._asked.is_set():
                self._asked.set()
                self._interrupted |= outer._interrupted
        return self

    def __exit__(self, *_: object) -> None:
        for signum, previous in self._previous.items():
            signal.signal(signum, previous)
            outer = getattr(previous, "__self__", None)
            if self._asked.is_set() and isinstance(outer, Watch):
                outer._asked.set()
                outer._interrupted |= self._interrupted

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            os.write(2, NOTICE)  # a stream's write is not safe in a handler
            if jax.process_count() > 1:
                return os.kill(os.getpid(), signal.SIGTERM)
        self._asked.set()

    def asked(self) -> bool:
        """Return whether a single process got a signal; several have to agree (`requested`)."""
        return jax.process_count() == 1 and self._asked.is_set()

    def requested(self) -> bool:
        """Return whether to save and exit now."""
        if jax.process_count() == 1:
            return self.asked()
        from jax.experimental import multihost_utils

        self._calls += 1
        return multihost_utils.reached_preemption_sync_point(self._calls)
