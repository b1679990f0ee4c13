"""A label that is out of range in the last batch alone."""

import keras
import numpy as np
import pytest

import finetune_keras as ft

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = np.arange(12) % 3
LATE = np.where(np.arange(12) == 11, 3, Y)
PLAN = ft.Plan([ft.Phase("all", 2, learning_rate=0.1)])
TOLD = "labels of `train` go from 0 to 3, and the model has 3 outputs"


def network():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, name="body")(inputs)
    outputs = keras.layers.Dense(3, "softmax", name="head")(x)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


class Batches(keras.utils.PyDataset):
    def __init__(self, y):
        super().__init__()
        self.y = y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(4 * index, 4 * index + 4)
        return X[rows], self.y[rows]


def dataset(y, shuffle=False):
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((X, y))
    return (data.shuffle(12) if shuffle else data).batch(4)


def generator(y):
    data = Batches(y)
    while True:
        yield from (data[i] for i in range(3))


def loader(y):
    torch = pytest.importorskip("torch")
    tensors = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(y))
    return torch.utils.data.DataLoader(tensors, 4)


class Iterable:
    """What `fit` of Keras itself does not take."""

    def __init__(self, y):
        self.y = y

    def __len__(self):
        return 3

    def __iter__(self):
        return iter([Batches(self.y)[i] for i in range(3)])


DATA = {
    "dataset": dataset,
    "shuffled dataset": lambda y: dataset(y, shuffle=True),
    "PyDataset": Batches,
    "generator": generator,
    "loader": loader,
    "iterable": Iterable,
}


@pytest.mark.backends("PyDataset", "-dataset")
@pytest.mark.parametrize("kind", DATA)
def test_it_is_told_when_it_is_met_and_clean_data_trains_afterwards(kind):
    options = {"steps_per_epoch": 3} if kind == "generator" else {}
    model = network()
    with pytest.raises(ValueError, match=TOLD):
        ft.fine_tune(
            model, PLAN, DATA[kind](LATE), verbose=0, cache="off", **options
        )
    history = ft.fine_tune(
        model, PLAN, DATA[kind](Y), verbose=0, cache="off", **options
    )
    assert np.isfinite(history.history["loss"]).all()


def test_it_is_told_of_validation_too():
    told = TOLD.replace("train", "validation")
    with pytest.raises(ValueError, match=told):
        ft.fine_tune(
            network(), PLAN, (X, Y), dataset(LATE), verbose=0, cache="off"
        )


def test_it_is_told_before_training_where_activations_are_stored():
    model = network()
    before = model.get_weights()
    plan = ft.Plan([ft.Phase("head", 2, learning_rate=0.1)])
    with pytest.raises(ValueError, match=TOLD):
        ft.fine_tune(model, plan, dataset(LATE), verbose=0, cache="memory")
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["PyDataset", "loader", "iterable"])
def test_a_sweep_of_rates_is_told_too(kind):
    with pytest.raises(ValueError, match=TOLD.replace("train", "data")):
        ft.find_learning_rate(network(), DATA[kind](LATE), verbose=0)


def test_batches_without_labels_are_refused():
    class Inputs(Batches):
        def __getitem__(self, index):
            return X[:4]

    with pytest.raises(ValueError, match="`train` must hold labels"):
        ft.fine_tune(network(), PLAN, Inputs(Y), verbose=0)


@pytest.mark.parametrize("kind", ["loader", "iterable"])
def test_batches_in_order_train_as_arrays(kind):
    data = DATA[kind](Y)
    ends = []
    for train in (data, (X, Y)):
        keras.utils.set_random_seed(1)
        model = network()
        options = {"batch_size": 4, "shuffle": False, "cache": "off"}
        history = ft.fine_tune(
            model, PLAN, train, train, verbose=0, **options
        ).history
        ends.append([*model.get_weights(), history["val_loss"]])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_what_is_looked_at_trains_as_what_is_not():
    """Order, sample weights and length are those of the data."""
    ends = []
    for watched in (True, False):
        keras.utils.set_random_seed(1)
        data = dataset(Y).map(lambda x, y: (x, y, y * 2 + 1))
        model = network()
        if watched:
            ft.fine_tune(model, PLAN, data, verbose=0, cache="off")
        else:
            model.optimizer.learning_rate = 0.1
            model.fit(data, epochs=2, shuffle=False, verbose=0)
        ends.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-6)
