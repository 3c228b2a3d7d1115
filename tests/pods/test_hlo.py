"""The text of compiled programs: how often each instruction runs, and what is moved between chips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dreamjax.pods import ahead, collectives, hlo, roofline

needs_compiler = pytest.mark.skipif(
    not ahead.available(), reason="TPU's compiler is not installed (pip install libtpu; `make test-long` does)"
)
LOOPS = """HloModule loops

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%limit (s: (s32[], f32[8,128])) -> pred[] {
  %s = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[] constant(NUMBER)
  ROOT %less = pred[] compare(%i, %n), direction=DIRECTION
}

%body (s: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %s = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%s), index=1
  %step = s32[] constant(STEP)
  %next = s32[] add(%i, %step)
  %y = f32[8,128]{1,0:T(8,128)} all-reduce(%x), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %out = (s32[], f32[8,128]{1,0:T(8,128)}) tuple(%next, %y)
}

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %zero = s32[] constant(START)
  %state = (s32[], f32[8,128]{1,0:T(8,128)}) tuple(%zero, %x)
  %loop = (s32[], f32[8,128]{1,0:T(8,128)}) while(%state), condition=%limit, body=%body
  ROOT %y = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def loops(start, step, number, direction):
    text = LOOPS.replace("START", str(start)).replace("STEP", str(step))
    return hlo.read(text.replace("NUMBER", str(number)).replace("DIRECTION", direction))


@pytest.mark.parametrize(
    ("start", "step", "number", "direction"),
    [(0, 1, 12, "LT"), (0, 1, 12, "LE"), (3, 2, 10, "LT"), (7, -1, 0, "GE"), (7, -2, 0, "GT"), (5, 1, 5, "LT")],
)
def test_trips_are_those_of_the_loop_itself(start, step, number, direction):
    compare = {"LT": int.__lt__, "LE": int.__le__, "GT": int.__gt__, "GE": int.__ge__}[direction]
    i, trips = start, 0
    while compare(i, number):
        i, trips = i + step, trips + 1
    program = loops(start, step, number, direction)
    assert [found for _, found in program.loops()] == [trips]
    assert program.times["body"] == trips
    (one,) = collectives.find(program, {"data": 2, "fsdp": 2}).collectives if trips else (None,)
    if one:
        assert (one.kind, one.axes, one.group, one.payload, one.times) == ("all-reduce", ("fsdp",), 2, 4096, trips)
        assert one.received == 4096 * trips  # twice one half


def test_a_loop_that_ends_some_day_has_no_known_trips():
    program = hlo.read(LOOPS.replace("%n = s32[] constant(NUMBER)", "%n = s32[] rng()").replace("DIRECTION", "LT"))
    assert [found for _, found in program.loops()] == [None]
    assert program.times["body"] == 1  # and `loops` says that nobody knows


@pytest.mark.parametrize(
    ("written", "axes"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", ("fsdp",)),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", ("data",)),
        ("replica_groups=[2,4]<=[8]", ("fsdp",)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("data",)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", ("fsdp",)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", ("data",)),
        ("replica_groups=[1,8]<=[8]", ("data", "fsdp")),
    ],
)
def test_groups_in_every_way_that_they_are_written(written, axes):
    text = f"""ENTRY %main (x: bf16[16,8]) -> bf16[16,8] {{
  %x = bf16[16,8]{{1,0}} parameter(0)
  ROOT %y = bf16[64,8]{{1,0}} all-gather(%x), channel_id=1, {written}, dimensions={{0}}
}}"""
    found = collectives.find(hlo.read(text), {"data": 2, "fsdp": 4})
    (one,) = found.collectives
    assert one.axes == axes
    assert one.payload == 256 * one.group
    assert found.unknown == {}


def test_what_one_device_sums_alone_is_not_moved():
    text = """ENTRY %main (x: bf16[8,4], y: f32[2,3]) -> f32[2,3] {
  %x = bf16[8,4]{1,0} parameter(0)
  %y = f32[2,3]{1,0} parameter(1)
  %a = bf16[8,4]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0},{1},{2},{3}}, to_apply=%add
  %b = f32[2,3]{1,0} all-reduce(%y), channel_id=2, replica_groups={{0,1},{2,3}}, to_apply=%add
  %c = bf16[8,4]{1,0} all-reduce(%x), channel_id=3, replica_groups=[4,1]<=[4], to_apply=%add
  ROOT %d = (f32[2,3]{1,0}, bf16[8,4]{1,0}) all-reduce(%y, %x), channel_id=4, replica_groups=[1,4]<=[4], to_apply=%add
}"""
    found = collectives.find(hlo.read(text), {"data": 2, "fsdp": 2})
    assert [(one.types, one.group, one.payload) for one in found.collectives] == [
        (("f32",), 2, 24),
        (("bf16", "f32"), 4, 24 + 64),
    ]


def test_reports_unknown_collectives():
    text = """ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %a = f32[8]{0} all-reduce(%x), replica_groups=something_new(8), to_apply=%add
  %b = f32[8]{0} all-scatter(%a), replica_groups={{0,1}}
  ROOT %c = (f32[8]{0}, u32[], token[]) send(%b, %x), channel_id=3
}"""
    found = collectives.find(hlo.read(text), {"data": 8})
    assert found.collectives == []
    assert found.unknown == {"all-reduce (its groups)": 1, "all-scatter": 1, "send (what for)": 1}


# --------------------------------------------------------------------------------------------- the compiler's programs
def compiled(devices, shape, function, *arguments, out):
    """The program of a function on a mesh of data × fsdp, and its mesh."""
    mesh = Mesh(np.array(devices).reshape(shape), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    given = [jax.ShapeDtypeStruct(s, k, sharding=NamedSharding(mesh, spec)) for s, k, spec in arguments]
    step = jax.jit(function, out_shardings=NamedSharding(mesh, out)).lower(*given).compile()
    return hlo.read(step.as_text()), mesh


def loss(w, x):
    def layer(x, one):
        return jnp.tanh(x @ one), None

    return jnp.square(jax.lax.scan(layer, x, w)[0].astype(jnp.float32)).sum()


LAYERS, WIDTH = 6, 512
WEIGHTS = ((LAYERS, WIDTH, WIDTH), jnp.float32)


@needs_compiler
def test_data_parallel_by_hand():
    """16 chips have all weights: the gradient of each is summed once, over data, and nothing else of size is moved."""
    program, mesh = compiled(
        ahead.topology("v5e:4x4"),
        (16, 1),
        jax.grad(loss),
        (*WEIGHTS, P()),
        ((2048, WIDTH), jnp.float32, P("data")),
        out=P(),
    )
    found = collectives.find(program, dict(mesh.shape))
    assert found.unknown == {}
    assert {one.axes for one in found.collectives} == {("data",)}
    assert sum(one.payload * one.times for one in found.collectives) == 4 * LAYERS * WIDTH**2
    assert {trips for _, trips in program.loops()} == {LAYERS}


@needs_compiler
def test_fsdp_by_hand():
    """Weights are gathered for the forward and for the backward pass, in the type that the matrix units take, and each
    gradient is summed in float32; whether it is cut on the way or after is the compiler's choice.
    """
    program, mesh = compiled(
        ahead.topology("v5e:4x4"),
        (1, 16),
        jax.grad(loss),
        (*WEIGHTS, P(None, "fsdp")),
        ((2048, WIDTH), jnp.float32, P("fsdp")),
        out=P(None, "fsdp"),
    )
    found = collectives.find(program, dict(mesh.shape))
    assert found.unknown == {}
    moved = {
        kind: sum(c.payload * c.times for c in found.collectives if c.kind == kind) for kind in collectives.RECEIVED
    }
    whole = 4 * LAYERS * WIDTH**2
    assert moved["all-gather"] == 2 * whole / 2
    assert {one.types for one in found.collectives if one.kind == "all-gather"} == {("bf16",)}
    assert {one.types for one in found.collectives if one.kind != "all-gather"} == {("f32",)}
    assert moved["reduce-scatter"] + moved["all-reduce"] == whole


@needs_compiler
def test_two_slices_by_hand():
    """Data over two slices: what crosses the network is the sum of all gradients, once."""
    program, mesh = compiled(
        ahead.topology("v5e:4x4", 2),
        (2, 16),
        jax.grad(loss),
        (*WEIGHTS, P()),
        ((2048, WIDTH), jnp.float32, P(("data", "fsdp"))),
        out=P(),
    )
    found = collectives.find(program, dict(mesh.shape))
    assert found.unknown == {}
    between = [one for one in found.collectives if one.axes == (collectives.SLICES,)]
    assert {one.kind for one in between} == {"all-reduce"}
    assert sum(one.payload * one.times for one in between) == pytest.approx(4 * LAYERS * WIDTH**2 / 16, rel=0.05)


@needs_compiler
def test_bytes_through_memory_by_hand():
    """2 x + 1 of 256 MiB reads and writes each once; so does a loop that takes and leaves a piece a trip."""
    devices = ahead.topology("v5e:2x2")[:1]
    x = ((1 << 26,), jnp.float32, P())
    program, _ = compiled(devices, (1, 1), lambda x: 2 * x + 1, x, out=P())
    assert roofline.traffic(program) == 2 * (1 << 28)
    x = ((16, 1 << 22), jnp.float32, P())
    program, _ = compiled(devices, (1, 1), lambda x: jax.lax.map(lambda row: jnp.sin(row), x), x, out=P())
    assert roofline.traffic(program) == pytest.approx(2 * (1 << 28), rel=0.01)
