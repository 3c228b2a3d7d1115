"""Every benchmark beside PyTorch runs, at its smallest size, and prints what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long  # a dozen processes that each import JAX, PyTorch and diffusers

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TINY = ("--model", "tiny", "--size", "8", "--batch", "1", "--rounds", "1", "--without-compile")


def run(script, *options):
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *options], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def check(contestants):
    assert set(contestants) >= {"dreamjax", "torch eager"}
    for found in contestants.values():
        assert found["ms_per_step"] > 0
    assert contestants["torch eager"]["time / dreamjax"][0] > 0


def test_generate():
    pytest.importorskip("diffusers")
    found = run("generate.py", *TINY, "--steps", "2", "--forwards", "1")
    for part in ("forward", "sampling"):
        check(found[part]["contestants"])
        assert all(child["peak_mib"] > 50 for child in found[part]["contestants"].values())


def test_finetune():
    pytest.importorskip("diffusers")
    found = run("finetune.py", *TINY, "--steps", "1", "--apart")
    check(found["contestants"])
    assert found["gflop_per_step"] > 0


def test_pretrain():
    check(
        run("pretrain.py", "--preset", "tiny", "--batch", "4", "--rounds", "1", "--steps", "1", "--without-compile")[
            "contestants"
        ]
    )
