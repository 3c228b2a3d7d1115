"""The command line as tests call it."""

import subprocess
import sys


def dreamjax(*words: str, timeout: float = 120, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "dreamjax", *words], capture_output=True, text=True, timeout=timeout, **options
    )


def sentence_of(error: str) -> str:
    """The mistake's only line. Fails on a traceback or a second line."""
    lines = error.strip().splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("dreamjax: ")
    return lines[0]
