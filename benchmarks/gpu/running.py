"""Run jobs one after another, each in a process group with a time budget; keep every result as soon as it exists."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from gpu.jobs import Job

DONE = "done"
LEAST_S = 20.0  # with less time left no job is started
POLL_S = 0.2
Results = dict[str, Any]


class Stopped(BaseException):
    """SIGTERM or SIGINT has come."""


def read(path: Path) -> Results:
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, results: Results) -> None:
    """Write so that a reader, or a stop, sees the results before or after, whole."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def run(jobs: Sequence[Job], command: Sequence[str], out: Path, *, limit_s: float) -> Results:
    """Run `command --job NAME --result FILE --until TIME` for each job; return all results.

    A job that fails, or whose time is over, is a line of the results, and the next one starts. `limit_s`: for all
    together. After SIGTERM or SIGINT the running job is stopped, and the results are those until then.
    """
    out.mkdir(parents=True, exist_ok=True)
    end = time.time() + limit_s
    results: Results = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "command": list(command)}
    results["jobs"] = {job.name: {"title": job.title, "status": "not reached"} for job in jobs}
    write(out / "results.json", results)
    with contextlib.suppress(Stopped), _stoppable():
        for job in jobs:
            left = end - time.time()
            entry = results["jobs"][job.name]
            if left < LEAST_S:
                entry["status"] = f"not started: {max(left, 0):.0f} s of {limit_s:.0f} left"
                continue
            _one(job, command, out, results, min(job.budget_s, left))
    write(out / "results.json", results)
    return results


def _one(job: Job, command: Sequence[str], out: Path, results: Results, seconds: float) -> None:
    """Run a job; its entry of the results is what its process has written until its end."""
    entry, started, seen = results["jobs"][job.name], time.time(), ""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        result = Path(folder) / "result.json"

        def keep(status: str) -> None:
            nonlocal seen
            text = result.read_text(encoding="utf-8") if result.exists() else ""
            if text != seen or entry["status"] != status:
                entry.update(json.loads(text) if text else {})
                failed = entry.pop("failed", "")
                status = f"failed: {failed}" if failed and status == DONE else status
                entry.update(title=job.title, status=status, seconds=round(time.time() - started, 1))
                seen = text
                write(out / "results.json", results)

        options = ["--job", job.name, "--result", str(result), "--until", str(started + seconds)]
        process = subprocess.Popen([*command, *options], start_new_session=True, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None and time.time() < started + seconds:
                keep("running")
                time.sleep(POLL_S)
        except Stopped:
            _end(process)
            keep("stopped")
            raise
        late = process.poll() is None
        _end(process)
        if late:
            keep(f"out of time after {seconds:.3g} s")
        else:
            keep(f"failed: exit code {process.returncode}" if process.returncode else DONE)


def _end(process: subprocess.Popen) -> None:
    """End a job's process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Raise Stopped in the block when a signal to stop comes."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
