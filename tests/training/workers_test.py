"""What the chief of several processes says reaches all of them.

The processes are threads here; real ones are in `distribution_test.py`.
"""

import concurrent.futures
import threading

import keras
import numpy as np
import pytest

from finetune_keras.engine import workers
from finetune_keras.engine.workers import Workers
from finetune_keras.training.checkpoint import Checkpoint


@pytest.fixture
def together(monkeypatch):
    """Calls a function with each of three workers, at the same time."""
    monkeypatch.setattr(workers, "_PART", 3)
    arrays, barrier = [], threading.Barrier(3, timeout=20)

    def add(array):
        arrays.append(array)
        barrier.wait()
        total = np.sum(arrays, axis=0, dtype="int32")
        if barrier.wait() == 0:
            arrays.clear()
        barrier.wait()
        return total

    def call(function):
        members = [Workers(index == 1, add) for index in range(3)]
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(function, member) for member in members]
            return [future.exception() or future.result() for future in futures]

    return call


@pytest.mark.parametrize("length", [0, 1, 3, 4, 11, 12, 13, 50])
def test_bytes_of_any_length_arrive(together, length):
    data = bytes(range(200, 200 + length))
    assert together(lambda w: w.ask_chief(lambda: data)) == [data] * 3


def test_all_raise_what_the_chief_raises(together):
    def refuse():
        raise ValueError("not this one")

    errors = together(lambda w: w.ask_chief(refuse))
    assert [str(error) for error in errors] == ["not this one"] * 3
    assert {type(error) for error in errors} == {ValueError}


def test_the_chief_alone_has_the_folder(together, tmp_path):
    def use(member, run="a"):
        folder = tmp_path / ("chief" if member.is_chief else "other")
        checkpoint = Checkpoint(folder, {"plan": run}, member)
        try:
            state = checkpoint.load()
            checkpoint.save({"epoch": 3, "x": np.arange(5.0)})
        finally:
            checkpoint.close()
        return state

    assert together(use) == [None] * 3
    for state in together(use):
        assert state["epoch"] == 3
        np.testing.assert_array_equal(state["x"], np.arange(5.0))
    assert not (tmp_path / "other").exists()
    errors = together(lambda member: use(member, run="b"))
    assert all("another run: plan was 'a' and is 'b'" in str(e) for e in errors)


@pytest.mark.backends
def test_one_process_is_alone():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    assert workers.workers_of(model) is None
    assert workers.agree_on(model, 7) == 7
