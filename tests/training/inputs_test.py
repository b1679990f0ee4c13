import types
import warnings

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.data.buckets import Buckets
from finetune_keras.training.inputs import Inputs, labels_rank

layers = keras.layers
X = np.random.default_rng(0).normal(size=(10, 6)).astype("float32")
Y = np.arange(10) % 3
Z = np.random.default_rng(1).normal(size=(10, 1)).astype("float32")


def two_outputs(names=False):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6,))
    x = layers.Dense(4, "tanh", name="body")(inputs)
    outputs = [
        layers.Dense(3, "softmax", name="a")(x),
        layers.Dense(1, name="b")(x),
    ]
    losses = ["sparse_categorical_crossentropy", "mse"]
    if names:
        outputs, losses = (
            dict(zip("ab", pair, strict=True)) for pair in (outputs, losses)
        )
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1), losses)
    return model


def one_output(outputs, loss, shape=(6,), activation="softmax"):
    model = keras.Sequential(
        [keras.Input(shape), layers.Dense(outputs, activation=activation)]
    )
    model.compile("sgd", loss)
    return model


# === Several outputs ===

W = np.linspace(0.5, 1, 10).astype("float32")
PLAN = ft.Plan([ft.Phase(["a", "b"], epochs=2, learning_rate=0.1)])


@pytest.mark.backends("labels0")
@pytest.mark.parametrize(
    "labels",
    [
        ({"a": Y, "b": Z},),
        ({"a": Y, "b": Z}, {"a": W, "b": 1 - W}),
        ([Y, Z],),
        ((Y, Z),),
    ],
)
def test_arrays_for_several_outputs_train_as_in_keras(labels):
    model, hand = (two_outputs(isinstance(labels[0], dict)) for _ in "ab")
    options = {"batch_size": 4, "shuffle": False, "verbose": 0}
    data = (X, *labels)
    history = ft.fine_tune(model, PLAN, data, data, cache="off", **options)
    hand.get_layer("body").trainable = False
    hand.compile(keras.optimizers.SGD(0.1), hand.loss)
    y, weights, *_ = (*labels, None)
    y = list(y) if isinstance(y, tuple) else y
    hand.fit(X, y, sample_weight=weights, epochs=2, **options)
    for a, b in zip(model.weights, hand.weights, strict=True):
        np.testing.assert_allclose(
            *map(keras.ops.convert_to_numpy, (a, b)), atol=1e-6
        )
    assert "val_loss" in history.history


def test_batches_and_the_example_of_several_outputs():
    y = {"a": Y, "b": Z}
    inputs = Inputs((X, y, {"a": W, "b": W}), two_outputs(True), "train", 4)
    batches = list(inputs.batches())
    assert [len(x) for x, *_ in batches] == [4, 4, 2]
    np.testing.assert_array_equal(batches[2][1]["a"], Y[8:])
    np.testing.assert_array_equal(batches[1][1]["b"], Z[4:8])
    np.testing.assert_array_equal(inputs.example()[2]["a"], W[:4])
    with pytest.raises(ValueError, match=r"of one length.*\[10, 10, 9\]"):
        Inputs((X, {"a": Y, "b": Z[:9]}), two_outputs(True), "train")


def test_the_rank_of_several_labels_is_asked_without_an_error():
    class Data(keras.utils.PyDataset):
        def __getitem__(self, index):
            return X, np.eye(3)[Y]

        num_batches = 1

    assert labels_rank(Data()) == 2
    assert labels_rank((X, {"a": Y, "b": Z})) is None
    assert labels_rank((X, (Y, Z))) == labels_rank((X, [Y, Z])) == 2


# === Labels ===


def test_an_ignored_class_is_no_label():
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=255)
    model = one_output(3, loss, (2, 2, 4))
    x, y = np.ones((5, 2, 2, 4)), np.full((5, 2, 2), 255)
    Inputs((x, y), model, "train")
    y[0, 0] = 2
    Inputs((x, y), model, "train")
    y[0, 0] = 3
    with pytest.raises(ValueError, match="go from 3 to 3"):
        Inputs((x, y), model, "train")


def test_masks_without_a_channel_have_no_columns():
    model = one_output(1, "binary_crossentropy", (2, 8, 4), "sigmoid")
    x = np.ones((5, 2, 8, 4))
    Inputs((x, np.ones((5, 2, 8))), model, "train")
    Inputs((x, np.ones((5, 2, 8, 1))), model, "train")
    with pytest.raises(ValueError, match="have 2 columns"):
        Inputs((x, np.ones((5, 2, 8, 2))), model, "train")
    model = one_output(3, "categorical_crossentropy", (2, 8, 4))
    with pytest.raises(ValueError, match="are integers"):
        Inputs((x, np.ones((5, 2, 8), int)), model, "train")


def test_named_labels_of_one_output_are_checked_too():
    model = one_output(2, "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="go from 0 to 2"):
        Inputs((X, [Y]), model, "train")


def test_lists_of_numbers_are_no_arrays():
    model = one_output(3, "sparse_categorical_crossentropy")
    for data in ((X, Y.tolist()), (X.tolist(), Y)):
        with pytest.raises(ValueError, match="numpy.array"):
            Inputs(data, model, "train")
    assert len(Inputs((X, Y, None), model, "train").data) == 2


# === Order and end ===


class Endless:
    """An iterable, though no iterator, without end."""

    def __iter__(self):
        while True:
            yield X[:4], Y[:4]


def test_an_epoch_of_endless_data_ends():
    model = one_output(3, "sparse_categorical_crossentropy")
    inputs = Inputs(Endless(), model, "train", steps=3)
    assert len(list(inputs.batches())) == 3


def test_an_iterable_shows_a_batch_and_an_iterator_none():
    model = one_output(3, "sparse_categorical_crossentropy")
    x, y = Inputs(Endless(), model, "train").example()
    np.testing.assert_array_equal(y, Y[:4])
    endless = iter(Endless())
    assert Inputs(endless, model, "train", steps=2).example() is None


@pytest.mark.backends
def test_a_loader_of_torch_shows_a_batch():
    torch = pytest.importorskip("torch")
    tensors = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    loader = torch.utils.data.DataLoader(tensors, batch_size=4)
    model = one_output(3, "sparse_categorical_crossentropy")
    inputs = Inputs(loader, model, "train")
    x, y = inputs.example()
    np.testing.assert_array_equal(y, Y[:4])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*shuffle.*")
        model.fit(**inputs.fit_arguments, verbose=0)
    assert not inputs.remembers_passes
    loader = torch.utils.data.DataLoader(tensors, batch_size=4, shuffle=True)
    inputs = Inputs(loader, model, "train")
    assert inputs.remembers_passes and inputs.example() is None


def test_an_iterable_without_a_length_goes_on_where_steps_end_within_it():
    class Two:
        def __iter__(self):
            return iter([(X[:4], Y[:4]), (X[4:8], Y[4:8])])

    model = one_output(3, "sparse_categorical_crossentropy")
    data = Inputs(Two(), model, "train", steps=3).fit_arguments["x"]
    for index, start in enumerate((0, 4, 0, 4)):
        np.testing.assert_array_equal(data[index][1], Y[start : start + 4])


def test_buckets_keep_their_order_where_that_is_asked_for():
    parts = [(X, Y)]
    model = types.SimpleNamespace(outputs=(), loss="mse")
    inputs = Inputs(Buckets(parts, 5), model, "train")
    inputs.shuffle = False
    dataset = inputs.fit_arguments["x"]
    for start, (_, y) in zip((0, 5, 0), dataset, strict=False):
        np.testing.assert_array_equal(y, Y[start : start + 5])


def test_a_model_that_prepares_its_data_says_which_it_takes():
    class Prepares(keras.Sequential):
        def preprocess_samples(self, x, y=None, sample_weight=None):
            return x, y, sample_weight

    model = Prepares([keras.Input((6,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    assert Inputs((X, Z), model, "train").num_batches == 1
    with pytest.raises(ValueError, match="takes arrays.*train of type End"):
        Inputs(Endless(), model, "train", steps=2)
