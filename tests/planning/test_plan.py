"""`dreamjax plan`: what is counted without a compiler, what is compiled with it, and that they agree."""

import json

import pytest

from dreamjax.cli.main import main
from dreamjax.planning import ahead

STAGE_A = ["plan", "--config", "configs/pretrain/dreamdiffusion.py", "--json"]
needs_compiler = pytest.mark.skipif(
    not ahead.available(), reason="TPU's compiler is not installed (pip install libtpu; `make test-long` does)"
)
PARAMETERS = 93_012_480  # trained; 93.08 M with the fixed positions


def planned(capsys, *words):
    assert main([*STAGE_A, *words]) == 0
    return json.loads(capsys.readouterr().out)


def moved(result, kind, axes):
    return sum(one["payload"] for one in result["collectives"] if (one["kind"], one["axes"]) == (kind, axes))


def test_gpus_are_counted(capsys):
    """Two nodes of 8: kernels are gathered twice in bfloat16, gradients summed in float32; an eighth crosses nodes."""
    found = planned(capsys, "--topology", "h100-16", "--config.train.mesh.fsdp=8")
    assert (found["how"], found["pod"]["chips"], found["mesh"]) == ("counted", 16, {"data": 2, "fsdp": 8, "tensor": 1})
    assert moved(found, "all-gather", ["fsdp"]) == pytest.approx(4 * PARAMETERS, rel=1e-3)
    assert moved(found, "reduce-scatter", ["fsdp"]) == pytest.approx(4 * PARAMETERS, rel=1e-3)
    assert moved(found, "all-reduce", ["slices"]) == pytest.approx(4 * PARAMETERS / 8, rel=1e-3)
    flop = 6.0832e9 * 256 / 16
    assert found["seconds"]["matrix"] == pytest.approx(flop / 989.4e12, rel=1e-3)
    assert found["seconds"]["low"] <= found["seconds"]["high"]
    assert found["memory"]["peak"] < found["usable"]


def test_without_the_compiler_a_pod_is_counted_too(capsys, monkeypatch):
    monkeypatch.setattr(ahead, "available", lambda: False)
    found = planned(capsys, "--topology", "v5e-16", "--config.train.mesh.fsdp=16")
    assert found["how"] == "counted"
    assert main([*STAGE_A[:-1], "--topology", "v5e-16", "--config.train.mesh.fsdp=16"]) == 0
    assert "counted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--topology", "v5e-17"], "no slice of 17 chips"),
        (["--topology", "v5e-16", "--config.train.mesh.fsdp=5"], "takes a multiple of 5 devices"),
        (["--topology", "h100-16", "--config.train.mesh.fsdp=16", "--config.train.batch_size=100"], "batch"),
        (["--topology", "v5e-16", "--effort", "2"], "lies from -1 to 1"),
        (["--topology", "v5e-16", "--slices", "0"], "slices"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(words, says, capsys):
    assert main([*STAGE_A, *words]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert "Traceback" not in told


@needs_compiler
@pytest.mark.long
def test_what_is_compiled_is_what_the_layout_says(capsys):
    """Stage A on 2 × 8 chips: every kernel gathered twice, every gradient summed once, to 1 %; loops of both depths."""
    found = planned(capsys, "--topology", "v5e-16", "--effort", "-1", "--config.train.mesh.fsdp=8")
    assert (found["how"], found["unrecognised"]) == ("compiled", {})
    assert moved(found, "all-gather", ["fsdp"]) == pytest.approx(4 * PARAMETERS, rel=0.01)
    assert moved(found, "reduce-scatter", ["fsdp"]) == pytest.approx(4 * PARAMETERS, rel=0.01)
    assert moved(found, "all-reduce", ["data"]) == pytest.approx(4 * PARAMETERS / 8, rel=0.01)
    assert sorted(found["loops"]) == [4, 4, 12, 12]  # layers of the decoder and of the encoder, forward and backward
    assert found["memory"]["params"] <= found["memory"]["arguments"] <= found["memory"]["peak"] < found["usable"]
    seconds = found["seconds"]
    assert seconds["matrix"] == pytest.approx(6.0832e9 * 256 / 16 / 197e12, rel=1e-3)
    assert seconds["low"] <= seconds["high"]
