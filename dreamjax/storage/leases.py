"""Leases: locks in object stores, which have none of their own.

A lease is an object that names its holder and is renewed while the holder lives. One that was not renewed for `LEASE_S`
belongs to a process that is gone, and may be taken. Where two take it at once the object names the last, and both read
it again after `SETTLE_S`. Hosts whose clocks differ by more than `LEASE_S` cannot share a lease.
"""

import contextlib
import json
import os
import threading
import time
import uuid

from etils import epath
from etils.epath import backend

from dreamjax.console import log
from dreamjax.errors import TryAgain

LEASE_S = 60.0
RENEW_S = 15.0
SETTLE_S = 2.0


class Lease:
    """The lease at `path`; messages call what it protects `what`."""

    def __init__(self, path: epath.PathLike, what: str) -> None:
        self.path, self.what, self.holder = epath.Path(path), what, uuid.uuid4().hex
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def take(self) -> bool:
        """Return whether this process holds the lease now, which it then renews until `give_back`."""
        if self._is_held():
            return False
        self._write()
        try:
            time.sleep(SETTLE_S)
            if self._holder() != self.holder:
                return False
            self._thread.start()
        except BaseException:  # a signal too: else the others wait until the lease expires
            self.give_back()
            raise
        return True

    def give_back(self) -> None:
        """Delete the lease, unless another process has taken it over."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(Exception):  # a store that does not answer: the lease ends by itself
            if self._holder() == self.holder:
                self.path.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                if self._holder() not in (self.holder, ""):
                    return self._end()
                self._write()
            except Exception as problem:  # object stores raise their own kinds
                log.warning("%s: its lock could not be renewed (%s); trying again", self.what, problem)

    def _end(self) -> None:
        """End this process: it was stopped or cut off for so long that another one may write there now."""
        log.error(
            "dreamjax: %s was taken over by another process, as this one could not renew its lock for %g s; it ends "
            "here and has saved nothing since",
            self.what,
            LEASE_S,
        )
        os._exit(TryAgain.exit_code)

    def _write(self) -> None:
        self.path.write_text(json.dumps({"holder": self.holder, "renewed": f"{time.time():014.2f}"}))  # of equal length

    def _read(self) -> dict[str, str]:
        """Return the object; {} where there is none, or it is not a lease."""
        with contextlib.suppress(Exception):
            backend.fsspec_backend.fs(self.path).invalidate_cache()  # what it listed before another process wrote
        try:
            lease = json.loads(self.path.read_text())
            return lease if {"holder", "renewed"} <= lease.keys() else {}
        except (FileNotFoundError, ValueError, AttributeError):
            return {}

    def _holder(self) -> str:
        return self._read().get("holder", "")

    def _is_held(self) -> bool:
        lease = self._read()
        try:
            return bool(lease) and time.time() - float(lease["renewed"]) < LEASE_S
        except ValueError:
            return False
