"""Rows of arrays as a stream: the order of every other stream, one pass or endless, from memory or from files."""

import numpy as np
import pytest
from streams import assert_same, joined, take

from dreamjax.errors import UserError
from dreamjax.signals.datasets import examples
from dreamjax.signals.datasets.arrays import open_arrays

N = 23


def make_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "betas": rng.normal(size=(N, 3, 5)).astype(np.float32),
        "image": rng.integers(0, 255, (N, 2, 3), np.uint8),
        "number": np.arange(N, dtype=np.int64),
        "known": rng.random(N) < 0.5,
    }


def one_pass(batch_size: int, processes: int, **how) -> dict[str, np.ndarray]:
    stream = open_arrays(make_arrays(), endless=False, **how)
    parts = [list(stream.batches(batch_size=batch_size, process=p, processes=processes)) for p in range(processes)]
    return joined([joined(list(rows)) for rows in zip(*parts, strict=True)])


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("batch_size", "processes"), [(1, 1), (4, 1), (4, 2), (6, 3), (23, 1), (40, 4)])
def test_one_pass_has_each_example_once_for_any_batch_size_and_number_of_processes(batch_size, processes, shuffle):
    rows, arrays = one_pass(batch_size, processes, shuffle=shuffle, seed=5), make_arrays()
    real = rows["weight"] == 1
    assert len(rows["weight"]) == -(-N // batch_size) * batch_size
    assert real.tolist() == [i < N for i in range(len(real))]
    number = rows["number"][real]
    assert sorted(number) == list(range(N))
    assert (number.tolist() == list(range(N))) is not shuffle
    for name, values in arrays.items():
        np.testing.assert_array_equal(rows[name][real], values[number])
        assert rows[name].dtype == values.dtype
    assert rows["index"].tolist() == [[0, i] for i in range(len(real))]
    same = one_pass(8, 1, shuffle=shuffle, seed=5)
    np.testing.assert_array_equal(number, same["number"][:N])


def test_endless_order_is_that_of_the_stream_of_windows():
    """Every row once in each pass, by the shuffle of (seed, pass) that windows of one corpus have."""
    rows = joined(take(open_arrays(make_arrays(), seed=7, endless=True), 10, batch_size=8))
    order = examples.mixture([N], (), seed=7, shuffle=True)
    assert rows["number"].tolist() == [order[i] for i in range(80)]
    assert sorted(rows["number"][:N]) == sorted(rows["number"][N : 2 * N]) == list(range(N))
    assert rows["number"][:N].tolist() != rows["number"][N : 2 * N].tolist()
    assert (rows["weight"] == 1).all()
    plain = joined(take(open_arrays(make_arrays(), endless=True, shuffle=False), 10, batch_size=8))
    assert plain["number"].tolist() == [i % N for i in range(80)]


@pytest.mark.parametrize(
    ("start", "processes", "workers", "endless"),
    [
        *((5, 1, 0, False), (5, 1, 0, True), (16, 2, 0, False), (16, 2, 0, True), (8, 1, 2, True)),
        (8, 1, 2, False),
    ],
)
def test_a_stream_resumes_at_any_position_with_any_processes_and_workers(tmp_path, start, processes, workers, endless):
    """In worker processes too, which map the files again; rows of every type come back."""
    paths = {}
    for name, values in make_arrays().items():
        paths[name] = tmp_path / f"{name}.npy"
        np.save(paths[name], values)
    whole = joined(take(open_arrays(make_arrays(), endless=endless), 9, batch_size=4))
    stream = open_arrays(paths, endless=endless)
    how = {"start": start, "batch_size": 4, "processes": processes, "workers": workers}
    parts = [take(stream, 2, process=p, **how) for p in range(processes)]
    rows = joined([joined(list(batch)) for batch in zip(*parts, strict=True)])
    assert_same(rows, {name: values[start : start + 8] for name, values in whole.items()})
    assert isinstance(stream.arrays["betas"], np.memmap)


def test_elements_have_the_shapes_and_types_of_the_arrays():
    stream = open_arrays(make_arrays(), endless=True)
    (batch,) = take(stream, 1, batch_size=4)
    assert {name: (spec.shape, spec.dtype) for name, spec in stream.element().items()} == {
        name: (rows.shape[1:], rows.dtype) for name, rows in batch.items()
    }
    assert len(stream) == N


def test_reports_arrays_that_cannot_be_examples(tmp_path):
    def message(arrays):
        with pytest.raises(UserError) as error:
            open_arrays(arrays, endless=True)
        return str(error.value)

    assert "a has 2, b has 3" in message({"a": np.zeros(2), "b": np.zeros((3, 1))})
    assert "there are no arrays" in message({})
    assert "at least one; a has 0" in message({"a": np.zeros((0, 2))})
    assert "an array is called 'index'" in message({"index": np.zeros(2)})
    assert "no such file" in message({"a": tmp_path / "a.npy"})
    (tmp_path / "a.npy").write_bytes(b"text")
    assert "not readable as a .npy array" in message({"a": tmp_path / "a.npy"})
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    assert "not readable as a .npy array" in message({"a": tmp_path / "object.npy"})
