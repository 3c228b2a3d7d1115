"""Fixtures of the tests of signals."""

import io
import logging
import sys

import eeg_imagenet_files
import pytest

from dreamjax.console import log
from dreamjax.signals.recordings.corpora import eeg_imagenet


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


@pytest.fixture
def instructions():
    """A function that calls another one and returns how many instructions Python executes meanwhile."""

    def counted(function, *args):
        count = 0

        def each(frame, event, arg):
            nonlocal count
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            count += event == "opcode"
            return each

        before = sys.gettrace()
        sys.settrace(each)
        try:
            function(*args)
        finally:
            sys.settrace(before)
        return count

    return counted


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder of small files in EEG-ImageNet's layout."""
    return eeg_imagenet_files.write(tmp_path_factory.mktemp("corpus") / "published")


@pytest.fixture(scope="module")
def opened(published):
    return eeg_imagenet.open_trials(published / eeg_imagenet_files.STD)
