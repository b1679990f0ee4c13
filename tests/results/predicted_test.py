import keras
import numpy as np
import pytest

from finetune_keras.results.predicted import predict_all

X = np.random.default_rng(0).normal(size=(70, 3)).astype("float32")
Y = np.arange(70) % 2


class Watched(keras.layers.Layer):
    """Remembers the shapes that it has been given."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def call(self, inputs):
        self.seen.add(tuple(inputs.shape))
        return inputs


@pytest.mark.backends
@pytest.mark.parametrize("several", [False, True])
def test_a_last_batch_has_the_shape_of_the_others(several):
    watched, inputs = Watched(), [keras.Input((3,), name=n) for n in "ab"]
    x = keras.layers.Dense(2)(watched(inputs[0]))
    model = keras.Model(inputs if several else inputs[0], x)
    watched.seen.clear()
    data = {"a": X, "b": X} if several else X
    outputs, labels, weights = predict_all(model, (data, Y))
    assert watched.seen == {(32, 3)}
    assert weights is None and np.array_equal(labels, Y)
    expected = keras.ops.convert_to_numpy(model.layers[-1](X))
    np.testing.assert_allclose(outputs, expected, rtol=1e-5)
