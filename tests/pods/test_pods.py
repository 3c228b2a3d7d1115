"""Names of pods → what they are, as their makers publish it."""

import pytest

from dreamjax.errors import UserError
from dreamjax.pods.topologies import pod


@pytest.mark.parametrize(
    ("name", "topology", "chips", "devices"),
    [  # docs.cloud.google.com/tpu/docs: v4 and v5p count cores, two a chip
        ("v4-8", "v4:2x2x1", 4, 4),
        ("v4-128", "v4:4x4x4", 64, 64),
        ("v4-512", "v4:4x8x8", 256, 256),
        ("v5e-1", "v5e:1x1", 1, 1),
        ("v5e-8", "v5e:2x4", 8, 8),
        ("v5litepod-16", "v5e:4x4", 16, 16),
        ("v5e-256", "v5e:16x16", 256, 256),
        ("v5p-512", "v5p:4x8x8", 256, 256),
        ("v5p-1024", "v5p:8x8x8", 512, 512),
        ("v5p-12288", "v5p:16x16x24", 6144, 6144),
        ("v6e-128", "v6e:8x16", 128, 128),
        ("tpu7x-128", "tpu7x:4x4x4", 64, 128),
        ("v7x-1536", "tpu7x:8x8x12", 768, 1536),
        ("v5p:2x4x4", "v5p:2x4x4", 32, 32),
    ],
)
def test_a_slice_is_what_its_name_says(name, topology, chips, devices):
    found = pod(name)
    assert (found.topology, found.chips, found.devices) == (topology, chips, devices)
    assert pod(found.name) == found or ":" in name
    assert pod(name, 3).chips == 3 * chips


def test_gpus_come_in_nodes_of_eight():
    assert [(pod(name).shape, pod(name).slices) for name in ("h100-1", "h100-8", "h200-64")] == [
        ((1,), 1),
        ((8,), 1),
        ((8,), 8),
    ]


def test_which_axes_are_rings():
    assert [pod("v5e-256").closed(i) for i in (0, 1)] == [True, True]
    assert [pod("v6e-128").closed(i) for i in (0, 1)] == [False, True]
    assert not any(pod("v5e-16").closed(i) for i in (0, 1))
    assert all(pod("v4-128").closed(i) for i in range(3))
    assert not any(pod("v5p-8").closed(i) for i in range(3))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v5e", "unknown pod"),
        ("p100-8", "unknown pod"),
        ("", "unknown pod"),
        ("h100:8", "unknown pod"),
        ("v5e-512", "no slice of 512 chips"),
        ("v5e-3", "no slice of 3 chips"),
        ("v4-7", "no slice of 7 cores"),
        ("v5e:4x4x4", "has 2 axes"),
        ("h100-12", "nodes of 8"),
    ],
)
def test_rejects_unknown_pod_name(name, says):
    with pytest.raises(UserError, match=says):
        pod(name)
