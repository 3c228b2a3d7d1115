"""Ridge regression: weights as scikit-learn's, the penalty that generalised cross-validation prefers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge as Oracle

from dreamjax.systems.ridge import Ridge, RidgeConfig, RidgeModelConfig

N, C, T, F = 60, 3, 4, 5


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((N, C, T)).astype(np.float32)
    vector = signal.reshape(N, -1) @ rng.standard_normal((C * T, F)) + 2 * rng.standard_normal((N, F)) + 3
    return {"signal": signal, "vector": vector.astype(np.float32), "weight": np.ones(N, np.float32)}


def solved(batch: dict[str, np.ndarray], **model: object) -> tuple[Ridge, dict[str, jax.Array]]:
    system = Ridge(RidgeConfig(model=RidgeModelConfig(bins=0, **model)))  # type: ignore[arg-type]
    return system, system.solve(system.statistics({name: jnp.asarray(x) for name, x in batch.items()}))


def standardised(batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    x, y = batch["signal"].reshape(N, -1).astype(np.float64), batch["vector"].astype(np.float64)
    return (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)


def test_weights_are_those_of_scikit_learn(batch: dict[str, np.ndarray]) -> None:
    x, y = standardised(batch)
    _, params = solved(batch)
    oracle = Oracle(alpha=float(params["penalty"]), fit_intercept=False).fit(x, y)
    spread = batch["signal"].reshape(N, -1).std(0)
    np.testing.assert_allclose(params["kernel"] * spread[:, None], oracle.coef_.T, atol=1e-4)


def test_penalty_minimises_generalised_cross_validation(batch: dict[str, np.ndarray]) -> None:
    x, y = standardised(batch)
    decades = (-3.0, -2.0, -1.0, 0.0, 1.0)
    _, params = solved(batch, decades=decades)
    mean = np.linalg.eigvalsh(x.T @ x).mean()

    def gcv(penalty: float) -> float:
        hat = x @ np.linalg.solve(x.T @ x + penalty * np.eye(C * T), x.T)
        return N * np.square(y - hat @ y).sum() / (N - 1 - np.trace(hat)) ** 2

    best = min(decades, key=lambda decade: gcv(mean * 10**decade))
    assert float(params["penalty"]) == pytest.approx(mean * 10**best, rel=1e-3)


def test_penalty_is_chosen_well_with_more_inputs_than_examples() -> None:
    rng = np.random.default_rng(1)
    signal = rng.standard_normal((40, 90, 1)).astype(np.float32)
    noise = rng.standard_normal((40, F)).astype(np.float32)  # nothing can be predicted
    batch = {"signal": signal, "vector": noise, "weight": np.ones(40, np.float32)}
    system = Ridge(RidgeConfig(model=RidgeModelConfig(bins=0)))
    params = system.solve(system.statistics({name: jnp.asarray(x) for name, x in batch.items()}))
    assert np.abs(system.query(params, batch)).mean() < 0.4  # of targets: 0.8


def test_rows_of_weight_zero_count_nothing(batch: dict[str, np.ndarray]) -> None:
    padded = {name: np.concatenate([x, 100 * x[:7]]) for name, x in batch.items()}
    padded["weight"][N:] = 0
    for one, other in zip(jax.tree.leaves(solved(batch)[1]), jax.tree.leaves(solved(padded)[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_encoding_predicts_the_response_from_the_image(batch: dict[str, np.ndarray]) -> None:
    system, params = solved(batch, direction="encode")
    assert params["kernel"].shape == (F, C * T)
    query = system.query(params, batch)
    predicted = system.image_side(params, jnp.asarray(batch["vector"]))
    r = np.mean([np.corrcoef(query[i], predicted[i])[0, 1] for i in range(N)])
    shuffled = np.mean([np.corrcoef(query[i], predicted[(i + 7) % N])[0, 1] for i in range(N)])
    assert r > 0.4 > shuffled + 0.3


def test_signal_is_averaged_over_spans_of_time(batch: dict[str, np.ndarray]) -> None:
    system = Ridge(RidgeConfig(model=RidgeModelConfig(bins=2)))
    means = batch["signal"].reshape(N, C, 2, 2).mean(-1).reshape(N, -1)
    np.testing.assert_allclose(system.features(jnp.asarray(batch["signal"])), means, atol=1e-6)
