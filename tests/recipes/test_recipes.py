"""Every recipe for a pod or GPUs still fits, and nothing crosses chips that did not before (`make test-pods`)."""

import json

import pytest

from dreamjax.parallel.sharding import TOLERANCE
from dreamjax.pods import ahead
from tests import recipes

LARGE = 1.0  # MiB


def golden(name):
    return json.loads(recipes.path_of(name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_summary_is_of_the_recipe(name):
    """Without a compiler: the file that a change has to answer to is there, and says what a recipe may not do."""
    found, recipe = golden(name), recipes.RECIPES[name]
    assert found["command"] == recipe.command
    check(found, recipe)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_docs_show_it(name):
    """`python -m tests.recipes --table` prints the rows."""
    assert recipes.row(name) in (recipes.REPOSITORY / "docs/scaling.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_recipe_s_own_words_are_of_the_summary(name):
    """What a docstring tells of memory and time."""
    found = golden(name)
    text = (recipes.REPOSITORY / recipes.RECIPES[name].config.partition(":")[0]).read_text(encoding="utf-8")
    low, high = (f"{ms:,.0f}" for ms in found["step_ms"])
    assert f"{found['memory_mib']['peak'] / 1024:.2f} of {found['usable_mib'] / 1024:.2f} GiB" in text
    assert f"{low} to {high} ms a step" in text


def check(found, recipe):
    memory = found["memory_mib"]
    assert memory["peak"] <= found["usable_mib"]
    assert found["computed_twice"] == 0, "it fits only because the compiler computes parts of it twice"
    assert found["unsharded"] <= TOLERANCE
    assert found["unrecognised"] == {}
    summed = {key for key, size in found["collectives"].items() if "reduce" in key and size > LARGE}
    assert summed or recipe.pod.chips == 1
    assert {key.split(" of ")[1].split(" over ")[0] for key in summed} <= {recipe.gradients}
    if not recipe.pod.is_tpu:
        check_kernels(found["kernels"])
        moved = sum(moved for _, _, moved in found["kernels"].values())
        assert sum(found["unfused"].values()) < 0.005 * moved
        if "pretrain" in recipe.config:  # cuDNN takes a convolution's kernel in another order
            copied = sum(size for kind, (_, _, size) in found["kernels"].items() if kind.startswith("copy of weights"))
            assert copied < 0.001 * moved, "the optimiser does not update in place"
        assert sum(found["exposed"].values()) <= 0.01 * sum(found["collectives"].values()), "nothing runs beside them"


def check_kernels(kernels):
    """Attention is the fused kernel, products and convolutions are of bfloat16, and activations keep their layout.

    What is copied is above all the recording's windows, once, which come with time last.
    """
    assert kernels["attention (cuDNN) of bf16"][0] > 0
    computing = {kind: flop for kind, (_, flop, _) in kernels.items()}
    assert sum(flop for kind, flop in computing.items() if kind.endswith(" of bf16")) >= 0.99 * sum(computing.values())
    copied = sum(moved for kind, (_, _, moved) in kernels.items() if kind.startswith("copy of activations"))
    assert copied < 0.005 * sum(moved for _, _, moved in kernels.values())


@pytest.mark.pods
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_recipe_compiles_to_what_it_was(name):
    if not ahead.available(recipes.RECIPES[name].pod):
        pytest.skip(f"the compiler is not installed ({ahead.remedy(recipes.RECIPES[name].pod)}; `make test-pods` does)")
    found, before = recipes.summary(recipes.RECIPES[name]), golden(name)
    check(found, recipes.RECIPES[name])
    remedy = f"; if that is meant: python -m tests.recipes {name}"
    for key in ("batch", "mesh", "loops", "strange_loops"):
        assert found[key] == before[key], key + remedy
    assert found["memory_mib"]["peak"] <= 1.03 * before["memory_mib"]["peak"], remedy
    new = set(found["collectives"]) - set(before["collectives"])
    assert not new, f"collectives that were not there: {new}{remedy}"
    for key, size in before["collectives"].items():
        assert found["collectives"].get(key, 0.0) <= 1.03 * size + 0.1, key + remedy
    assert found["step_ms"][1] <= 1.05 * before["step_ms"][1], remedy
