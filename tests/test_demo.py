"""`make demo`: what it may delete, how it reports, and (long) the whole demo at a small size."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", REPOSITORY / "demo" / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["demo"]


def test_empties_only_a_folder_of_its_own(demo, tmp_path):
    work = tmp_path / "work"
    demo.empty(work)
    (work / "old").write_text("from the demo before")
    demo.empty(work)
    assert [p.name for p in work.iterdir()] == [demo.MARK]

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match="did not make"):
        demo.empty(mine)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_missing_recordings_are_reported_before_anything_is_deleted(demo, tmp_path):
    work = tmp_path / "work"
    demo.empty(work)
    (work / "old").write_text("from the demo before")
    with pytest.raises(SystemExit, match="nowhere: no such folder; --n170 takes"):
        demo.main(["--work", str(work), "--n170", str(tmp_path / "nowhere")])
    assert (work / "old").exists()


def test_failing_verb_ends_the_demo_with_its_name(demo, tmp_path):
    run = demo.Demo(tmp_path)
    with pytest.raises(SystemExit, match="`dreamjax simulate` ended with exit code 2"):
        run.run(["simulate", "--out", str(tmp_path / "x"), "--classes", "99"])


def test_each_stage_prints_its_time_and_its_budget(demo, tmp_path, capsys):
    run = demo.Demo(tmp_path)
    assert run.stage("1 wait", 60, lambda: 7) == 7
    run.stage("2 wait", -1, lambda: None)
    shown = capsys.readouterr().out
    assert "1 wait: 0 s of 60 s\n" in shown
    assert "2 wait: 0 s of -1 s  (over budget" in shown
    demo.finish(run)
    assert "total" in capsys.readouterr().out


def test_incomplete_log_line_is_not_counted(demo, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 10, "split": "train", "loss": 1}\n{"step": 10, "split": "val"}\n{"st'
    )
    assert list(demo.logged(tmp_path)) == [10]
    assert demo.logged(tmp_path / "nowhere") == {}


@pytest.mark.long
def test_the_whole_demo(tmp_path):
    """The same path as `make demo`, with less data and fewer steps."""
    words = ["--work", str(tmp_path / "work"), "--subjects", "6", "--minutes", "1", "--steps", "80"]
    words += ["--images", "400", "--image-steps", "100", "--dream-steps", "60", "--trials", "60"]
    ended = subprocess.run(
        [sys.executable, "demo/run.py", *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=1500
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "equal byte by byte" in " ".join(ended.stdout.split())
    assert "JAX imported: False" in ended.stdout
    assert "agrees with the prompt: shape" in ended.stdout
    assert "PSNR against JAX's images of the same noise" in ended.stdout
    assert "labels permuted" in (tmp_path / "work/gallery/gallery.html").read_text()
    config = json.loads((tmp_path / "work/exported/config.json").read_text())
    assert config["n_chans"] == 19
