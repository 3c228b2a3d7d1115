"""Programs compiled for GPUs: their kernels, the model of their times, and what JAX asks of a GPU that is not there."""
# ruff: noqa: E501 (lines as the compiler writes them)

import jax
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from dreamjax.errors import UserError
from dreamjax.parallel import environment
from dreamjax.pods import collectives, gpus, hlo, kernels, schedule, topologies

H200 = topologies.CHIPS["h200"]
SMS = gpus.TARGETS["h200"].multiprocessors
# as XLA writes them, shortened
PROGRAM = """HloModule step, is_scheduled=true

%moved (p: bf16[64,33,1024]) -> bf16[64,1024,33] {
  %p = bf16[64,33,1024]{2,1,0} parameter(0)
  ROOT %t = bf16[64,1024,33]{2,1,0} transpose(%p), dimensions={0,2,1}
}

%normed (q: bf16[64,33,1024]) -> f32[64,33,1024] {
  %q = bf16[64,33,1024]{2,1,0} parameter(0)
  ROOT %c = f32[64,33,1024]{2,1,0} convert(%q)
}

ENTRY %main (x: bf16[2112,1024], w: bf16[1024,3072], i: bf16[8,64,64,320], k: bf16[3,3,320,640]) -> f32[] {
  %x = bf16[2112,1024]{1,0} parameter(0)
  %w = bf16[1024,3072]{1,0} parameter(1)
  %i = bf16[8,64,64,320]{3,2,1,0} parameter(2)
  %k = bf16[3,3,320,640]{3,2,1,0} parameter(3)
  %gather = (bf16[128,1024]{1,0}, bf16[1024,1024]{1,0}) all-gather-start(%w), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  %product = (bf16[2112,3072]{1,0}, s8[4194304]{0}) custom-call(%x, %w), custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(update)/dot"}, backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]}}}
  %gathered = bf16[1024,1024]{1,0} all-gather-done(%gather)
  %late = (bf16[128,1024]{1,0}, bf16[1024,1024]{1,0}) all-gather-start(%w), channel_id=2, replica_groups=[1,8]<=[8], dimensions={0}
  %waited = bf16[1024,1024]{1,0} all-gather-done(%late)
  %forward = (bf16[8,64,64,640]{3,2,1,0}, u8[0]{0}) custom-call(%i, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convForward"
  %y = bf16[8,64,64,640]{3,2,1,0} get-tuple-element(%forward), index=0
  %filter = (bf16[3,3,320,640]{3,2,1,0}, u8[0]{0}) custom-call(%i, %y), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %input = (bf16[8,64,64,320]{3,2,1,0}, u8[0]{0}) custom-call(%y, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convBackwardInput"
  %q = bf16[64,34,16,64]{3,2,1,0} bitcast(%x)
  %attention = (bf16[64,34,16,64]{3,2,1,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax"
  %back = (bf16[64,34,16,64]{3,2,1,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmaxBackward"
  %tokens = bf16[64,33,1024]{2,1,0} bitcast(%x)
  %turned = bf16[64,1024,33]{2,1,0} fusion(%tokens), kind=kInput, calls=%moved
  %norm = f32[64,33,1024]{2,1,0} fusion(%tokens), kind=kCustom, calls=%normed, backend_config={"fusion_backend_config":{"kind":"__triton"}}
  ROOT %end = f32[] constant(0)
}
"""


@pytest.fixture(scope="module")
def program():
    return hlo.read(PROGRAM)


@pytest.fixture(scope="module")
def runs(program):
    return kernels.read(program)


def test_names_the_kind_of_each_kernel(runs):
    assert [one.kind for one in runs] == [
        "product (cuBLASLt)",
        *["convolution (cuDNN)"] * 3,
        *["attention (cuDNN)"] * 2,
        "copy of activations",
        "fusion (Triton)",
    ]
    assert runs[0].source == "jit(update)/dot"
    assert runs[-2].moved == 2 * 64 * 33 * 1024 * 2


def test_operations_are_those_of_the_shapes(runs):
    product, forward, to_filter, to_input, attention, back = runs[:6]
    assert product.shape == (1, 2112, 3072, 1024)
    assert product.flop == 2 * 2112 * 3072 * 1024
    assert forward.shape == (1, 8 * 64 * 64, 640, 9 * 320)
    assert forward.flop == to_filter.flop == to_input.flop == 2 * 8 * 64 * 64 * 640 * 9 * 320
    assert to_filter.shape == (1, 9 * 320, 640, 8 * 64 * 64)
    assert to_input.shape == (1, 8 * 64 * 64, 320, 9 * 640)
    assert attention.flop == 2 * 2 * 64 * 34 * 34 * 16 * 64
    assert back.flop == 2.5 * attention.flop


def kernel(flop=0.0, moved=0.0, shape=(0, 0, 0, 0), kind="product (cuBLASLt)", types="bf16", times=1.0):
    return kernels.Kernel(kind, types, times, flop or 2.0 * np.prod(shape, dtype=float), moved, shape, "")


def test_a_large_product_runs_near_the_ceiling_and_a_small_one_does_not():
    large, small = (kernels.share(kernel(shape=(1, n, n, n)), SMS) for n in (8192, 256))
    assert 0.9 < large <= 1.0
    assert small < 0.3
    assert kernels.share(kernel(shape=(1, 8192, 8192, 8192), types="f32"), SMS) == pytest.approx(large / 2)


@pytest.mark.parametrize("one", [kernel(moved=4.8e9), kernel(moved=4.8e9, times=3.0)])
def test_traffic_takes_its_bytes_over_the_bandwidth(one):
    low, high = kernels.seconds([one], H200, SMS)
    assert low == pytest.approx(one.times * 1e-3 / kernels.STREAMED)
    assert high == pytest.approx(low / kernels.WORSE + one.times * kernels.START)


def test_groups_add_up_to_the_step(runs):
    groups = kernels.grouped(runs, H200, SMS)
    assert sum(group.milliseconds for group in groups) == pytest.approx(1e3 * kernels.seconds(runs, H200, SMS)[0])
    assert sum(group.flop for group in groups) == sum(one.flop * one.times for one in runs)


def test_a_transfer_overlaps_only_where_work_lies_between_its_start_and_end(program):
    gathers = collectives.find(program, {"data": 1, "fsdp": 8, "tensor": 1}).collectives
    assert [one.overlapped for one in gathers] == [True, False]


def test_transfers_of_a_program_go_within_nodes_and_between_them():
    everyone = collectives.Collective("all-reduce", ("data",), 16, 800.0, 3.0, ("f32",), True, tuple(range(16)))
    parts = collectives.split_among_nodes([everyone], topologies.pod("h200-16"))
    assert [(one.kind, one.axes, one.payload, one.times) for one in parts] == [
        ("all-reduce", ("slices",), 100.0, 3.0),
        ("reduce-scatter", ("data",), 800.0, 3.0),
        ("all-gather", ("data",), 800.0, 3.0),
    ]


def test_every_gpu_that_has_a_name_can_be_compiled_for():
    assert set(gpus.TARGETS) == {name for name, chip in topologies.CHIPS.items() if chip.axes == 1}
    for name, target in gpus.TARGETS.items():
        assert target.text().count("{") == target.text().count("}")
        assert target.memory == pytest.approx(topologies.CHIPS[name].usable / 0.75, rel=0.08)
        assert target.bandwidth == pytest.approx(topologies.CHIPS[name].bandwidth, rel=0.05)


def test_questions_about_a_gpu_are_answered_in_the_context_alone():
    before = fused_attention_stablehlo.check_cudnn_version
    with gpus.unattached("h200"):
        assert environment.compute_capability() == (9, 0)
        assert fused_attention_stablehlo.check_compute_capability("9.0")
        assert not fused_attention_stablehlo.check_compute_capability("10.0")
        assert fused_attention_stablehlo.check_cudnn_version() == 91000
    assert environment.compute_capability() is None
    assert fused_attention_stablehlo.check_cudnn_version is before


def test_without_the_compiler_says_what_to_install(monkeypatch):
    monkeypatch.setattr(gpus, "available", lambda: False)
    with pytest.raises(UserError, match=f"pip install jax-cuda12-plugin=={jax.__version__}"):
        gpus.devices("h200")


def test_fused_attention_computes_heads_in_multiples_of_64():
    shares = {
        head: kernels.share(kernels.Kernel("attention (cuDNN)", "bf16", 1.0, 1.0, 0.0, (0, 0, 0, 0), "", head), SMS)
        for head in (40, 64, 80, 128)
    }
    assert shares[64] == shares[128] == kernels.ATTENTION
    assert shares[40] == shares[80] == pytest.approx(kernels.ATTENTION * 40 / 64)


# a step whose results are a stacked kernel and its gradient; each of 8 GPUs holds an eighth of the rows
COPIES = """HloModule step, is_scheduled=true

%turned (p: f32[1024,128]) -> f32[128,1024] {
  %p = f32[1024,128]{1,0} parameter(0)
  ROOT %t = f32[128,1024]{1,0} transpose(%p), dimensions={1,0}
}

%cast (r: bf16[32,64,64,320]) -> f32[320,32,64,64] {
  %r = bf16[32,64,64,320]{3,2,1,0} parameter(0)
  %wide = f32[32,64,64,320]{3,2,1,0} convert(%r)
  ROOT %first = f32[320,32,64,64]{3,2,1,0} transpose(%wide), dimensions={3,0,1,2}
}

%taken (s: bf16[32,64,64,320], i: s32[]) -> bf16[1,64,64,320] {
  %s = bf16[32,64,64,320]{3,2,1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %piece = bf16[1,64,64,320]{3,2,1,0} dynamic-slice(%s, %i, %i, %i, %i), dynamic_slice_sizes={1,64,64,320}
}

%doubled (q: bf16[32,64,64,320]) -> bf16[32,64,64,320] {
  %q = bf16[32,64,64,320]{3,2,1,0} parameter(0)
  ROOT %m = bf16[32,64,64,320]{3,2,1,0} add(%q, %q)
}

ENTRY %main (w: f32[24,128,1024], x: bf16[32,64,64,320]) -> (f32[24,128,1024]) {
  %w = f32[24,128,1024]{2,1,0} parameter(0)
  %x = bf16[32,64,64,320]{3,2,1,0} parameter(1)
  %kept = f32[24,128,1024]{2,1,0} copy(%w)
  %layer = f32[1024,128]{1,0} bitcast(%w)
  %other = f32[128,1024]{1,0} fusion(%layer), kind=kInput, calls=%turned
  %gathered = bf16[24,1024,1024]{2,1,0} copy(%w)
  %image = bf16[32,320,64,64]{3,2,1,0} transpose(%x), dimensions={0,3,1,2}
  %padded = bf16[32,66,66,320]{3,2,1,0} pad(%x, %w), padding=0_0x1_1x1_1x0_0
  %sum = bf16[32,64,64,320]{3,2,1,0} fusion(%x), kind=kLoop, calls=%doubled
  %zero = s32[] constant(0)
  %converted = f32[320,32,64,64]{3,2,1,0} fusion(%x), kind=kInput, calls=%cast
  %row = bf16[1,64,64,320]{3,2,1,0} fusion(%x, %zero), kind=kLoop, calls=%taken
  ROOT %end = (f32[24,128,1024]{2,1,0}) tuple(%kept)
}
"""


def test_tells_copies_of_weights_from_those_of_activations():
    runs = kernels.read(hlo.read(COPIES), gathered=[8])
    assert [one.kind for one in runs] == [
        *["copy of weights"] * 3, "copy of activations", "pad, cut or join", "fusion", "copy of activations", "fusion",
    ]  # fmt: skip
    assert [one.name for one in runs if one.unfused] == ["sum"]


SCHEDULED = """HloModule step, is_scheduled=true

%more (state: (s32[], f32[8])) -> pred[] {
  %state = (s32[], f32[8]) parameter(0)
  %turn = s32[] get-tuple-element(%state), index=0
  %most = s32[] constant(3)
  ROOT %less = pred[] compare(%turn, %most), direction=LT
}

%layer (before: (s32[], f32[8])) -> (s32[], f32[8]) {
  %before = (s32[], f32[8]) parameter(0)
  %count = s32[] get-tuple-element(%before), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%count, %one)
  %y = f32[8]{0} get-tuple-element(%before), index=1
  %begin = (f32[1], f32[8]) all-gather-start(%y), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  %long = f32[8]{0} copy(%y)
  %end = f32[8]{0} all-gather-done(%begin)
  ROOT %after = (s32[], f32[8]) tuple(%next, %long)
}

%never (none: (s32[], f32[8])) -> pred[] {
  %none = (s32[], f32[8]) parameter(0)
  ROOT %no = pred[] constant(false)
}

%graph (g: f32[8]) -> f32[8] {
  %g = f32[8]{0} parameter(0)
  ROOT %recorded = f32[8]{0} copy(%g)
}

ENTRY %main (x: f32[8]) -> f32[1] {
  %x = f32[8]{0} parameter(0)
  %zero = s32[] constant(0)
  %init = (s32[], f32[8]) tuple(%zero, %x)
  %loop = (s32[], f32[8]) while(%init), condition=%more, body=%layer
  %z = f32[8]{0} get-tuple-element(%loop), index=1
  %sum = f32[1]{0} reduce-scatter(%z), channel_id=2, replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%more
  %last = (f32[8], f32[8]) all-reduce-start(%z), channel_id=3, replica_groups=[1,8]<=[8], to_apply=%more
  %short = f32[8]{0} call(%z), to_apply=%graph
  %skipped = (s32[], f32[8]) while(%init), condition=%never, body=%layer, backend_config={"known_trip_count":{"n":"0"}}
  %done = f32[8]{0} all-reduce-done(%last)
  ROOT %final = f32[8]{0} copy(%done)
}
"""


@pytest.mark.parametrize(
    ("gather", "expected"),
    [
        (1.0, 3 * 5 + 2 + 4 + 7),  # hidden behind the kernel of 5 s
        (6.0, 3 * 6 + 2 + 4 + 7),  # longer than it
    ],
)
def test_a_step_takes_what_kernels_do_not_hide(gather, expected):
    """Three turns of a loop, a sum that everything waits for, and one of 4 s that hides a called kernel of 3."""
    spans = {"long": 5.0, "recorded": 3.0, "final": 7.0}
    transfers = {"begin": gather, "sum": 2.0, "last": 4.0}
    program = hlo.read(SCHEDULED)
    assert schedule.seconds(program, spans, transfers) == expected
    assert "recorded" in {one.name for one in kernels.read(program)}


def test_both_ends_of_a_step_are_of_its_schedule(program):
    pod = topologies.pod("h200-8")
    runs = kernels.read(program)
    moved = collectives.find(program, {"data": 1, "fsdp": 8, "tensor": 1}).collectives
    computing, (low, high) = schedule.of_gpus(program, runs, moved, pod, [(i,) for i in range(8)])
    assert computing == kernels.seconds(runs, pod.chip, SMS)[0]
    assert computing < low < high  # the second transfer waits
