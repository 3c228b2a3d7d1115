"""Fixtures of the tests of signals."""

import io
import logging

import pytest

from dreamjax.console import log


@pytest.fixture
def said(capsys):
    """Everything that is logged or printed, as a function."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)

    def text() -> str:
        captured = capsys.readouterr()
        return stream.getvalue() + captured.out + captured.err

    yield text
    log.removeHandler(handler)
