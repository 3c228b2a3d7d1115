"""The command line: help, mistakes, JSON, progress; the same for every verb."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from dreamjax.cli import main as cli
from dreamjax.errors import UserError
from tests.command_line import dreamjax, sentence_of

TINY_SET = ["--subjects", "1", "--minutes", "0.25", "--channels", "4"]


# ---------------------------------------------------------------------------------------------------------------- help
@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: dreamjax {verb}")
    assert f"example:\n  dreamjax {verb}" in shown
    assert "--json" in shown


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_example_is_one_that_parses(verb):
    import shlex

    words = shlex.split(cli._verb_module(verb).EXAMPLE)
    assert words[:2] == ["dreamjax", verb]
    assert cli.parsed(words[1:]).verb == verb


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_argument_is_explained(verb):
    parser = cli.build_parser(only=verb)
    (subparsers,) = (a for a in parser._actions if hasattr(a, "choices") and isinstance(a.choices, dict))
    silent = [a.dest for a in subparsers.choices[verb]._actions if not a.help]
    assert silent == []


def test_help_shows_a_default_of_several_words(capsys):
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    assert "(default: rest arithmetic)" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_dreamjax_alone_lists_the_verbs(words, capsys):
    try:
        code = cli.main(words)
    except SystemExit as ended:
        code = ended.code
    assert code == 0
    shown = capsys.readouterr().out
    for verb in cli.VERBS:
        assert f"\n    {verb} " in shown
    assert "cannot be used" not in shown


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("dreamjax 0.")


def test_help_is_quick_because_no_verb_imports_a_heavy_library():
    """`dreamjax --help` < 1 s (0.3 s here): none of the verbs' modules pulls in what takes seconds."""
    script = (
        "import sys; from dreamjax.cli import main; main.build_parser();"
        "print([m for m in ('jax', 'mne', 'torch', 'scipy', 'grain', 'matplotlib', 'tensorflow_datasets') "
        "if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.stdout.strip() == "[]", ended.stdout + ended.stderr


def test_a_verb_that_cannot_be_imported_spares_the_others(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "dreamjax.cli.evaluate_verb", None)  # import raises ModuleNotFoundError
    assert cli.main([]) == 0
    assert "cannot be used here" in capsys.readouterr().out
    assert cli.main(["simulate", "--out", str(tmp_path / "set"), *TINY_SET]) == 0


# ------------------------------------------------------------------------------------------------------------ mistakes
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], "there is no verb trian; did you mean train?"),
        (["xyzzy"], "there is no verb xyzzy; the verbs are simulate, prepare"),
        (["simulate", "--outt", "x"], "no option --outt; did you mean --out?"),
        (["simulate", "--out", "x", "--subject=3"], "did you mean --subjects?"),
        (["simulate"], "required: --out"),
        (["simulate", "--out", "x", "--subjects", "three"], "invalid int value: 'three'"),
        (["simulate", "--out", "x", "--order", "neat"], "invalid choice: 'neat'"),
        (["simulate", "--out", "x", "--classes", "99"], "classes is 99, but must be 1 to 19"),
        (["simulate", "--out", "x", "--config.seed=3"], "takes no --config"),
        (["train", "--config", "nowhere.py", "--workdir", "x"], "nowhere.py"),
        (["train", "--config.seed"], "wants a value"),
    ],
)
def test_wrong_command_exits_2_with_one_message(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert says in sentence_of(shown.err)
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_refuses_an_unknown_option_with_exit_2(verb, capsys):
    assert cli.main([verb, "--jsno"]) == 2
    assert "did you mean --json?" in sentence_of(capsys.readouterr().err)


def test_mistakes_look_the_same_from_a_shell(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    ended = dreamjax("simulate", "--out", str(tmp_path / "full"), "--json")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "not empty" in sentence_of(ended.stderr)


# ------------------------------------------------------------------------------------------------------------- results
def test_json_is_one_object_on_stdout_and_logs_go_to_stderr(tmp_path):
    """Not a terminal: stdout parses as a whole, stderr has plain lines without control characters."""
    assert cli.main(["simulate", "--out", str(tmp_path / "set"), *TINY_SET]) == 0
    ended = dreamjax("prepare", str(tmp_path / "set"), "--out", str(tmp_path / "out"), "--workers", "0", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["recordings"] == 1
    assert ended.stdout.count("\n") == 1
    assert "prepare: 1/1" in ended.stderr
    assert "\x1b" not in ended.stderr + ended.stdout
    assert "\r" not in ended.stderr + ended.stdout


def test_without_json_people_get_text(tmp_path, capsys):
    assert cli.main(["simulate", "--out", str(tmp_path / "set"), *TINY_SET]) == 0
    shown = capsys.readouterr()
    assert "recordings in" in shown.out
    with pytest.raises(json.JSONDecodeError):
        json.loads(shown.out)
    assert shown.err == ""  # the summary is told once


def test_what_libraries_and_children_print_does_not_reach_stdout(tmp_path):
    script = f"""
import os, subprocess, sys
from dreamjax.cli import main, simulate_verb
def run(args):
    print("from python")
    os.system("echo from a shell")
    subprocess.run([sys.executable, "-c", "print('from a child')"])
    os.write(1, b"from C\\n")
    return {{"n": 1}}
simulate_verb.run = run
sys.exit(main.main(["simulate", "--out", "{tmp_path}/x", "--json"]))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.stdout == '{"n": 1}\n'
    for source in ("python", "a shell", "a child", "C"):
        assert f"from {source}\n" in ended.stderr


def test_results_are_json_whatever_numbers_they_hold(fake_verb, capsys):
    values = {
        "array": np.arange(3, dtype=np.float32),
        "scalar": np.float32(0.5),
        "count": np.int64(7),
        "flag": np.True_,
        "nothing": float("nan"),
        "far": [np.inf, 1.0],
        "pair": (1, None),
        "path": cli.os.path,
    }
    fake_verb(lambda args: dict(values, path=__import__("pathlib").Path("a/b")))
    assert cli.main(["simulate", "--json"]) == 0

    def refuse(word):
        raise ValueError(word)

    got = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert got == {
        "array": [0.0, 1.0, 2.0],
        "scalar": 0.5,
        "count": 7,
        "flag": True,
        "nothing": None,
        "far": [None, 1.0],
        "pair": [1, None],
        "path": "a/b",
    }


PROGRESS = """
import sys, time
from dreamjax import console
console.PLAIN_EVERY_S = 0.05
with console.progress("counting", 3) as bar:
    for i in range(3):
        time.sleep(0.06)
        bar.advance(1, note=f"file {i}")
"""


def test_progress_is_plain_lines_where_there_is_no_terminal():
    ended = subprocess.run([sys.executable, "-c", PROGRESS], capture_output=True, text=True, timeout=60)
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert [line.split(" after")[0] for line in lines] == [f"counting: {n}/3" for n in (1, 2, 3, 3)]
    assert lines[0].endswith("file 0")
    assert lines[-1].endswith("done")
    assert "\x1b" not in ended.stderr


def test_progress_is_a_bar_on_a_terminal():
    import pty

    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    running = subprocess.Popen([sys.executable, "-c", PROGRESS], stderr=follower, env=environment)
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    assert running.wait(60) == 0
    text = shown.decode()
    assert "\x1b[" in text
    assert "3/3" in text
    assert "━" in text


def test_parser_errors_are_user_errors():
    with pytest.raises(UserError, match="see dreamjax simulate --help"):
        cli.build_parser(only="simulate").parse_args(["simulate"])


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["train", "--workdir", "{folder}"], "holds files that are not a run"),
        (["train", "--workdir", "{folder}/notes.txt"], "is a file"),
        (["train", "--workdir", ""], "--workdir is empty; give it a value or leave it out"),
        (["simulate", "--out", "{folder}/x", "--captioned="], "--captioned"),
        (["generate", "--model", "m", "--prompt", "a", "--out", "x", "--init-image", ""], "--init-image is empty"),
        (
            ["simulate", "--out", "{folder}/notes.txt/x", "--subjects", "1", "--minutes", "0.2"],
            "notes.txt is not a folder; choose another path",
        ),
        (["inspect", "--devices", "0"], "--devices"),
        (["evaluate", "{folder}", "--with-reconstruction"], "add --probe"),
        (["evaluate", "{folder}", "--step", "3", "--best"], "--best"),
        (["evaluate", "{folder}", "--folds", "3"], "--folds would do nothing without --probe; add --probe"),
        (["evaluate", "{folder}", "--probe-labels", "a", "b"], "--probe-labels would do nothing without --probe"),
        (["evaluate", "{folder}", "--probe", "--best"], "--best would have no effect with the probe"),
        (
            ["evaluate", "{folder}", "--fold-runs", "a", "b", "--folds=2"],
            "--folds would have no effect with --fold-runs",
        ),
        (
            ["prepare", "{folder}", "--out", "{folder}/x", "--tmin", "0"],
            "--tmin would do nothing without --events; add --events",
        ),
        (
            ["prepare", "{folder}", "--out", "{folder}/x", "--baseline", "-0.2", "0", "--tmax=1"],
            "--tmax and --baseline would do nothing without --events; add --events or leave out --tmax",
        ),
        (["prepare", "{folder}", "--out", "{folder}/x", "--event-codes", "face"], "--event-codes would do nothing"),
        (
            ["prepare", "{folder}", "--out", "{folder}/x", "--stimuli", "s"],
            "--stimuli would do nothing without --events",
        ),
        (["prepare", "{folder}", "--out", "{folder}/x", "--events", "file", "--stimuli", "s"], "with --events file"),
        (
            ["import", "a.pth", "--out", "{folder}/x", "--heads", "0"],
            "argument --heads: 0 is not a whole number from 1",
        ),
        (
            ["import", "a.pth", "--out", "{folder}/x", "--divide", "nan"],
            "argument --divide: nan is not a number above 0",
        ),
        (["import", "a.pth", "--out", "{folder}/x", "--sfreq", "fast"], "argument --sfreq: 'fast' is not a number"),
    ],
)
def test_rejects_impossible_paths_and_pairs_of_options(argv, told, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    argv = [argument.format(folder=tmp_path) for argument in argv]
    if argv[0] in ("train", "inspect"):
        argv += ["--config", "configs/pretrain/tiny.py"]
    assert cli.main(argv) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert told in said
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]
