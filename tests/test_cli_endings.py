"""How a verb may end: exit codes, one sentence for what is no defect, and nothing half-written."""

import logging
import os
import signal
import subprocess
import sys
import time

import jax
import pytest

from dreamjax.cli import main as cli
from dreamjax.console import configure_logging
from dreamjax.storage import atomic
from tests.command_line import sentence_of


def test_reports_full_disk(fake_verb, capsys):
    def run(args):
        import errno

        raise OSError(errno.ENOSPC, "No space left on device", "shards/train-00001")

    fake_verb(run)
    assert cli.main(["simulate"]) == 2
    assert "shards/train-00001: No space left on device" in sentence_of(capsys.readouterr().err)


@pytest.mark.parametrize("verbose", [False, True])
def test_tracebacks_of_orbax_are_shown_only_with_verbose(fake_verb, caplog, verbose):
    """A full disk makes each of its threads log one, besides the error that it raises."""

    def run(args):
        logging.getLogger("absl").error("_SignalingThread.run() raised an exception")
        return {}

    fake_verb(run)
    assert cli.main(["simulate", *(["--verbose"] if verbose else [])]) == 0
    assert ("_SignalingThread" in caplog.text) == verbose
    configure_logging()


def test_a_defect_of_ours_keeps_its_traceback(fake_verb):
    fake_verb(lambda args: {}["missing"])
    with pytest.raises(KeyError):
        cli.main(["simulate"])


def test_a_verb_may_choose_its_exit_code(fake_verb):
    fake_verb(lambda args: {"exit_code": 75})
    assert cli.main(["simulate"]) == 75


def test_an_interrupted_verb_says_so(fake_verb, capsys):
    def run(args):
        raise KeyboardInterrupt

    fake_verb(run)
    assert cli.main(["simulate"]) == 130
    assert sentence_of(capsys.readouterr().err) == "dreamjax: interrupted"


def test_control_c_leaves_nothing_half_written(tmp_path):
    words = ["simulate", "--out", str(tmp_path / "set"), "--subjects", "200", "--minutes", "2"]
    running = subprocess.Popen(
        [sys.executable, "-m", "dreamjax", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
    )
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob(".set.*.part/sub-*")):  # until it is writing
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert out == ""
    assert sentence_of(err) == "dreamjax: interrupted"
    assert os.listdir(tmp_path) == []


def test_sigterm_leaves_nothing_half_written(fake_verb, tmp_path, capsys):
    """What a scheduler sends before it kills: the verb unwinds, and the process ends as shells count it."""

    def run(args):
        with atomic.new_folder(tmp_path / "out") as folder:
            (folder / "00000.png").write_bytes(b"")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    fake_verb(run)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        cli.main(["simulate"])
    assert left.value.code == 128 + signal.SIGTERM
    assert os.listdir(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_within_a_finaliser_is_not_lost(fake_verb, capsys, python_handles_control_c, number):
    """Python prints and ignores what is raised there, and the verb would go on to its end."""

    class Finalised:
        def __del__(self):
            signal.raise_signal(number)
            time.sleep(0)

    def run(args):
        one = Finalised()
        del one
        time.sleep(60)

    fake_verb(run)
    if number == signal.SIGINT:
        assert cli.main(["simulate"]) == 130
    else:
        with pytest.raises(SystemExit, match="143"):
            cli.main(["simulate"])
    assert "Exception ignored" not in capsys.readouterr().err


def test_a_signal_while_an_extension_is_loaded_is_not_reported_as_a_defect(fake_verb, capsys, python_handles_control_c):
    def run(args):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as problem:
            raise ImportError("Encountered an error while initializing the extension.") from problem

    fake_verb(run)
    assert cli.main(["simulate"]) == 130
    assert sentence_of(capsys.readouterr().err) == "dreamjax: interrupted"


def test_closed_pipe_is_not_an_error():
    """`dreamjax --help | head -0`."""
    running = subprocess.Popen(
        [sys.executable, "-m", "dreamjax", "simulate", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    running.stdout.close()
    assert b"Traceback" not in running.stderr.read()
    running.stderr.close()
    running.wait(60)


def test_reports_device_out_of_memory(monkeypatch, capsys):
    """As XLA says it; any other failure of a program stays what it is."""

    def fails(said):
        def run(argv):
            raise jax.errors.JaxRuntimeError(said)

        return run

    monkeypatch.setattr(
        cli, "_dispatch", fails("RESOURCE_EXHAUSTED: Out of memory allocating 91335364672 bytes.\nmore")
    )
    assert cli.main([]) == 2
    said = capsys.readouterr().err
    assert "Out of memory allocating 91335364672 bytes" in said
    assert said.count("\n") == 1
    monkeypatch.setattr(cli, "_dispatch", fails("INTERNAL: something else"))
    with pytest.raises(jax.errors.JaxRuntimeError):
        cli.main([])
