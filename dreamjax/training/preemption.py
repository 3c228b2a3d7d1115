"""On SIGTERM: save, then exit with code 75 (EX_TEMPFAIL), so that a scheduler starts the run again."""

import signal
import threading
from types import FrameType

import jax

from dreamjax.errors import TryAgain

EXIT_CODE = TryAgain.exit_code


class Watch:
    """`with Watch() as watch:` … `watch.requested()` after each step: every process gets True at the same step.

    In a single process a signal handler notes the signal; a watch within another passes it on when it ends. Among
    several processes JAX's own notifier has it, and they agree on a step through the coordination service.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._calls = 0
        self._previous: signal._HANDLER = None
        self._handles = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Watch":
        if self._handles:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._previous)
            outer = getattr(self._previous, "__self__", None)
            if self._asked.is_set() and isinstance(outer, Watch):
                outer._asked.set()

    def _note(self, _signum: int, _frame: FrameType | None) -> None:
        self._asked.set()

    def requested(self) -> bool:
        """Return whether to save and exit now."""
        if jax.process_count() == 1:
            return self._asked.is_set()
        from jax.experimental import multihost_utils

        self._calls += 1
        return multihost_utils.reached_preemption_sync_point(self._calls)
