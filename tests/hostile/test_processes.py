"""The verbs that write, killed at any moment, and started many times at once: complete and as if undisturbed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreamjax.training import checkpoints
from tests.hostile.test_flips import opened, same
from tests.systems.conftest import config, encoder, images, sd, shards, trained, vision  # noqa: F401 (fixtures)

IN_USE = 75
KILLS = 20  # of each verb
STARTS = 20
TRAIN = (
    *("train", "--config", "configs/pretrain/tiny.py", "--config.data.samples=128", "--config.data.sfreq=64"),
    *("--config.data.montage=own", "--config.model.channels=4", "--config.model.interpolation=none"),
    *("--config.model.dim=16", "--config.model.heads=2", "--config.model.decoder_dim=16", "--config.model.depth=1"),
    *("--config.model.decoder_heads=2", "--config.model.decoder_depth=1", "--config.model.patch=8"),
    *("--config.train.steps=12", "--config.train.batch_size=8", "--config.train.eval_every=0"),
    *("--config.train.checkpoint.every=3", "--config.train.tensorboard=False", "--config.train.log_every=1"),
)


def files_of(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob(pattern) if path.is_file()}


def saved(folder):
    return checkpoints.newest_intact(folder / "checkpoints"), opened(folder)


def results(folder):
    """The numbers, and the names of all files. A note counts how often the test trials were read."""
    read = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    numbers = [{name: one[name] for name in one.keys() - {"files", "notes", "sealed"}} for one in read]
    return numbers, sorted(path.name for path in folder.iterdir())


def scores(folder):
    return {path.parent.name: json.loads(path.read_text())["legs"] for path in folder.glob("points/*/score.json")}


TRIALS = ("--steps", "1", "--sampler", "ddim", "--guidance", "1")
VERBS = {  # verb: (its words, the option that names what it writes, what its result holds)
    "simulate": (
        lambda made: ("simulate", "--subjects", "2", "--minutes", "0.3", "--channels", "4", "--seed", "3"),
        "--out",
        lambda out: files_of(out, "**/*.edf"),
    ),
    "prepare": (
        lambda made: ("prepare", str(made / "recordings"), "--salt", "a", "--workers", "1", "--name", "d"),
        "--out",
        lambda out: files_of(out, "*.array_record-*"),
    ),
    "train": (lambda made: (*TRAIN, f"--config.data.path={made / 'shards'}"), "--workdir", saved),
    "export": (
        lambda made: ("export", str(made / "run"), "--to", "torch"),
        "--out",
        lambda out: files_of(out, "*.safetensors"),
    ),
    "import": (lambda made: ("import", str(made / "export")), "--out", opened),
    "evaluate": (
        lambda made: ("evaluate", str(made / "run"), "--split", "val", "--windows", "4"),
        "--out",
        results,
    ),
    "sweep": (lambda made: ("sweep", "--config", str(made / "sweep.py")), "--workdir", scores),
    "generate from text": (
        lambda run: ("generate", "--model", str(run["sd"]), "--prompt", "a", "--steps", "1"),
        "--out",
        lambda out: files_of(out, "*.png"),
    ),
    "generate from trials": (
        lambda run: ("generate", "--checkpoint", str(run["trained"]), *TRIALS, "--trials", "2", "--samples", "2"),
        "--out",
        lambda out: files_of(out, "**/*.png") | files_of(out, "*.jsonl"),
    ),
    "evaluate images": (
        lambda run: ("evaluate", str(run["trained"]), *TRIALS),
        "--out",
        results,
    ),
}
ONCE = ("simulate", "export", "import", "generate from text")  # do not replace what they wrote


@pytest.fixture
def made_for(request):
    """What a verb works on; trials with images take a pipeline and a run of their own."""

    def get(verb):
        if verb == "generate from text":
            return {"sd": request.getfixturevalue("sd")}
        if "trials" in verb or "images" in verb:
            return {"trained": request.getfixturevalue("trained")[1]}
        return request.getfixturevalue("made")

    return get


def start(words, **options):
    command = [sys.executable, "-m", "dreamjax", *words]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **pipes, **options)


def finished(process) -> str:
    """The messages of a process; fails on a hang or a traceback."""
    _, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors, errors
    return errors


def leftovers(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if ".part" in path.name or path.name.startswith(".tmp")]


@pytest.mark.hostile
@pytest.mark.parametrize("verb", VERBS)
def test_a_killed_command_given_again_ends_as_if_undisturbed(verb, made_for, tmp_path, tally):
    words, option, content = VERBS[verb]
    made = made_for(verb)
    started = time.monotonic()
    process = start([*words(made), option, str(tmp_path / "undisturbed")])
    errors, seconds = finished(process), time.monotonic() - started
    assert process.returncode == 0, errors
    expected, rng = content(tmp_path / "undisturbed"), random.Random(verb)
    for i in range(KILLS):
        folder = tmp_path / str(i)
        folder.mkdir()
        command = [*words(made), option, str(folder / "out")]
        process = start(command)
        time.sleep(rng.uniform(0.3, 1.1) * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        killed = process.wait() == -signal.SIGKILL
        if not killed and verb in ONCE:
            continue  # it had ended, and does not replace what it wrote
        process = start(command)
        errors = finished(process)
        complete = verb in ONCE and process.returncode == 2 and "exists" in errors
        right = (process.returncode == 0 or complete) and same(content(folder / "out"), expected)
        tally(f"kill of {verb}", "unchanged" if right and not leftovers(folder) else "failed")
        assert right, errors
        assert not leftovers(folder)


@pytest.mark.hostile
@pytest.mark.parametrize("verb", VERBS)
def test_of_many_simultaneous_starts_one_writes(verb, made_for, tmp_path, tally):
    """The others end with 75, with 2 where the result is there already, or repeat nothing: never with half of each."""
    words, option, content = VERBS[verb]
    made = made_for(verb)
    command = [*words(made), option, str(tmp_path / "out")]
    processes = [start(command) for _ in range(STARTS)]
    results = [(finished(process), process.returncode) for process in processes]
    assert {code for _, code in results} <= {0, 2, IN_USE}, results
    assert all("exists" in errors for errors, code in results if code == 2), results
    assert any(code == 0 for _, code in results), results
    alone = start([*words(made), option, str(tmp_path / "alone")])
    assert not finished(alone) or alone.returncode == 0
    right = same(content(tmp_path / "out"), content(tmp_path / "alone")) and not leftovers(tmp_path)
    for _ in range(STARTS):
        tally(f"simultaneous starts of {verb}", "unchanged" if right else "failed")
    assert right
