"""As written and as released: the objectives of retrieval systems by hand, and what trains and what does not.

Two trials with brain vectors (2, 0) and (0, 1); their images have the directions (3, 4) / 5 and (4, 3) / 5.
"""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.objectives.contrastive import ContrastiveConfig
from dreamjax.objectives.mmd import mmd
from dreamjax.systems import registry
from dreamjax.systems.brain_module import PRESETS
from dreamjax.systems.retrieval_data import VECTOR, SizesConfig
from dreamjax.systems.samga import PROGRESS
from dreamjax.systems.ubp import SHARPER, SOFTER, USUAL, Ubp, UbpConfig, UbpModelConfig
from dreamjax.training import optimiser
from dreamjax.training.train_config import TrainConfig

BRAIN, IMAGES = jnp.asarray([[2.0, 0.0], [0.0, 1.0]]), jnp.asarray([[3.0, 4.0], [8.0, 6.0]])
INITIAL = math.log(1 / 0.07)
SOFTPLUS = math.log(1 + 1 / 0.07)  # 2.727


def system(name: str, variant: str | None = None, **changes: Any) -> Any:
    """A system without data; `changes`: of its config, or of its model."""
    config = registry.find(name).Config(sizes=SizesConfig(2, 60, 1, 2))
    model = {} if variant is None else {"variant": variant}
    model |= {key: changes.pop(key) for key in list(changes) if not hasattr(config, key)}
    return registry.build(replace(config, model=replace(config.model, **model), **changes))


def batch_of(images: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    return {VECTOR: IMAGES, "image": jnp.asarray(images), "weight": jnp.ones(2), "subject": jnp.zeros(2, jnp.int32)}


def objective(task: Any, batch: dict[str, Any], brain: jax.Array = BRAIN) -> float:
    """The mean loss, where the map of the images' side is the identity."""
    identity = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    total, weight, _ = task.objective(
        {"logit_scale": jnp.float32(task.config.loss.initial), "image": identity}, batch, brain
    )
    return float(total / weight)


def entropy(*lead: float) -> float:
    """The mean cross entropy of choices of two, whose right logit leads by so much."""
    return sum(math.log(1 + math.exp(-x)) for x in lead) / len(lead)


COSINES = (-0.2, -0.2, -0.2, -0.2)  # of (0.6, 0.8) and (0.8, 0.6): rows, then columns
PRODUCTS = (-0.4, -0.2, 0.4, -1.0)  # of (1.2, 1.6) and (0.8, 0.6)


@pytest.mark.parametrize(
    ("name", "variant", "scale", "lead"),
    [
        ("nice", "as_written", 1 / 0.07, COSINES),
        ("nice", "as_released", 1 / 0.07, COSINES),
        ("atm", "as_written", 1 / 0.07, COSINES),
        ("atm", "as_released", INITIAL, PRODUCTS),
        ("shallow", None, 1 / 0.07, COSINES),
        ("ubp", "as_written", SOFTPLUS, PRODUCTS),
        ("ubp", "as_released", SOFTPLUS, PRODUCTS),
        ("neurobridge", "as_written", 1 / 0.07, PRODUCTS),
        ("neurobridge", "as_released", SOFTPLUS, PRODUCTS),
        ("brain_module", None, 1.0, PRODUCTS[:2]),  # to images only, and temperature 1
        ("eegnet", None, 1 / 0.07, COSINES),
    ],
)
def test_objective_by_hand(name: str, variant: str | None, scale: float, lead: tuple[float, ...]) -> None:
    assert objective(system(name, variant), batch_of()) == pytest.approx(entropy(*(scale * x for x in lead)), rel=1e-5)


@pytest.mark.parametrize("name", ["nice", "atm", "ubp", "neurobridge"])
def test_equal_images_are_negatives_as_released(name: str) -> None:
    different, equal = ([objective(system(name, v), batch_of(images)) for v in ("as_written", "as_released")]
                        for images in ((0, 1), (5, 5)))  # fmt: skip
    assert equal[0] != pytest.approx(different[0])  # half of the target each
    assert equal[1] == pytest.approx(different[1])


def test_a_setting_that_the_config_changes_stays_as_released() -> None:
    masked = system("nice", "as_released", loss=ContrastiveConfig(equal="masked"))
    assert (masked.contrast.equal, masked.contrast.learned, masked.contrast.largest) == ("masked", False, math.inf)
    assert objective(masked, batch_of((5, 5))) == pytest.approx(0, abs=1e-6)  # no negative is left


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_samga_s_objective_and_rate_by_hand(part: float) -> None:
    """Of the first third of the steps: m falls from 0.9 to 0.5; then the contrast alone, at half of the rate."""
    task = system("samga", "as_released", layers=())
    params = {"logit_scale": jnp.float32(INITIAL)}
    # the image's side is not linear, so its output is given
    object.__setattr__(task, "image_side", lambda params, vectors, subject, key: IMAGES)
    batch = batch_of() | {PROGRESS: jnp.float32(part / 3)}
    total, weight, _ = task.objective(params, batch, BRAIN)
    contrast = entropy(*(SOFTPLUS * x for x in PRODUCTS))
    distance = float(mmd(jnp.eye(2), jnp.asarray([[0.6, 0.8], [0.8, 0.6]]), jnp.ones(2))[0] / 2)
    m = 0.9 - 0.4 * part if part < 1 else 0.0
    assert float(total / weight) == pytest.approx((1 - m) * contrast + m * distance, rel=1e-5)


def test_enigma_s_objective_by_hand() -> None:
    """|(2, 0) - (3, 4)|² + |(0, 1) - (8, 6)|² = 17 + 89 over 2 · 2 numbers, and half of the contrast."""
    expected = (17 + 89) / 4 + 0.5 * entropy(*(x / 0.07 for x in COSINES))
    assert objective(system("enigma"), batch_of()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "variant", "factor"),
    [
        ("nice", "as_released", 14.2857),
        ("neurobridge", "as_written", 14.2857),
        ("neurobridge", "as_released", 2.7269),
        ("samga", None, 2.7269),
        ("brain_module", None, 1.0),
    ],
)
def test_a_fixed_scale_does_not_move(name: str, variant: str | None, factor: float) -> None:
    task = system(name, variant)
    config = replace(task.config, optim=replace(task.config.optim, weight_decay=0.5))
    scale = {"logit_scale": jnp.float32(task.config.loss.initial)}
    assert float(task.contrast.factor(scale["logit_scale"])) == pytest.approx(factor, rel=1e-4)
    gradient = jax.grad(lambda s: task.contrast.factor(s))(scale["logit_scale"])
    assert float(gradient) == 0
    steps = optimiser.build()
    updates, _ = steps.update(
        {"logit_scale": gradient}, steps.init(scale), scale, hyper=optimiser.hyper(config.optim, 10), step=jnp.int32(5)
    )
    assert float(updates["logit_scale"]) == 0


def test_a_learned_scale_has_a_gradient() -> None:
    for name, variant in (("nice", "as_written"), ("atm", "as_released"), ("ubp", "as_released"), ("shallow", None)):
        contrast = system(name, variant).contrast
        assert float(jax.grad(contrast.factor)(jnp.float32(INITIAL))) > 0


def test_ubp_blurs_uncertain_trials_as_written_and_as_released() -> None:
    logits = jnp.asarray([0.0] * 30 + [9.0, -9.0])
    before, there = jnp.zeros(32), jnp.ones(32, bool)
    for variant, low, high in (("as_written", SHARPER, SOFTER), ("as_released", SOFTER, SHARPER)):
        ubp = Ubp(UbpConfig(model=UbpModelConfig(variant=variant)))  # type: ignore[arg-type]
        mean, level = ubp.blurred(logits, before, there)
        np.testing.assert_allclose(mean, 0.3 * logits, atol=1e-6)
        assert level.tolist() == [USUAL] * 30 + [high, low]
    assert UbpModelConfig(variant="as_written").kernels == (45, 51, 57)
    assert UbpModelConfig(variant="as_released").kernels == (45, 45, 51)


def test_the_presets_of_the_brain_module() -> None:
    paper, bench = PRESETS["meg_paper"], PRESETS["meg_neuralbench"]
    assert (paper.optim.learning_rate, paper.optim.weight_decay, paper.train.batch_size) == (3e-4, 0, 128)
    assert (paper.model.dims, paper.model.identified, paper.warmup) == (2, True, 0)
    assert (bench.optim.learning_rate, bench.optim.weight_decay, bench.train.batch_size) == (1e-4, 0.05, 64)
    assert (bench.model.dims, bench.model.identified, bench.epochs, bench.optim.clip) == (3, False, 40, 1.0)
    hyper = registry.build(replace(bench, train=TrainConfig(steps=200))).hyper()
    rates = [float(optimiser.learning_rate(jnp.int32(step), hyper)) for step in (0, 10, 20, 110, 200)]
    np.testing.assert_allclose(rates, [0, 5e-5, 1e-4, 5e-5, 0], atol=1e-9)  # a tenth of the steps up, a cosine down


def test_deep4_pools_by_the_length_of_the_trials() -> None:
    def arguments(samples: int, **model: Any) -> Any:
        task = system("deep4", None, sizes=SizesConfig(17, samples, 1, 8), **model)
        task.network.shapes(task.arguments())
        return task.arguments()["pool"]

    assert [arguments(samples) for samples in (151, 250, 440, 441)] == [2, 2, 2, 3]
    assert arguments(100, taps=4, pool=2) == 2
    with pytest.raises(UserError, match=r"at least 151 samples a trial, but these have 150 .*model\.taps, model\.pool"):
        arguments(150)


@pytest.mark.parametrize(
    ("name", "channels", "samples", "features", "expected"),
    [
        # 25·40+40, BN, 63·40·40+40, BN, 40·40+40; 1440·768+768, 768·768+768, LN
        ("nice", 63, 250, 768, 1_802_496),
        # 4250·1024+1024, 1024·1024+1024, LN
        ("ubp", 17, 250, 1024, 4_352_000 + 1024 + 1_048_576 + 1024 + 2048),
        # a map of 250 × 250 + 250, then 5·40+40, BN, 63·40·40+40, BN, 40·4+4; 184·1024+1024, 1024²+1024, LN
        ("enigma", 63, 250, 1024, 62_750 + 240 + 80 + 100_840 + 80 + 164 + 189_440 + 1_049_600 + 2048),
    ],
)
def test_parameters_of_the_published_sizes(
    name: str, channels: int, samples: int, features: int, expected: int
) -> None:
    task = system(name, None, sizes=SizesConfig(channels, samples, 1, features))
    shapes = jax.eval_shape(task.init_params, jax.random.key(0))["encoder"]
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    running = ("'mean'", "'var'")
    count = sum(x.size for path, x in leaves if not jax.tree_util.keystr(path).rstrip("]").endswith(running))
    assert count == expected
