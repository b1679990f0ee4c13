"""A run that goes on ends as if it had never been stopped."""

import contextlib

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.data.buckets import Buckets
from finetune_keras.testing import randomize
from finetune_keras.training.checkpoint import Checkpoint
from finetune_keras.training.inputs import Inputs

layers = keras.layers
TWO = ft.Plan([ft.Phase("head", 2, 1e-2), ft.Phase("all", 2, 1e-2)])
ONE = ft.Plan([ft.Phase("all", 5, 1e-2)])


def network(seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,))
    x = layers.Dense(6, activation="tanh", name="body")(inputs)
    x = layers.Dropout(0.2)(x)
    model = keras.Model(inputs, layers.Dense(3, "softmax", name="head")(x))
    randomize(model)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def table(rows=48):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 4)).astype("float32")
    return x, rng.integers(0, 3, rows)


def run(folder, data, stop=None, callbacks=(), cache="off", plan=ONE):
    """A call in a process of its own would make all of it anew, as here."""
    # The seed of the first call is in the folder: later ones play no part.
    model = network(seed=len(list(folder.glob("state*"))))
    history = ft.fine_tune(
        model, plan, *data(), checkpoint_dir=folder, stop_after=stop,
        callbacks=[make() for make in callbacks], cache=cache, verbose=0,
    )  # fmt: skip
    return model.get_weights(), history


def assert_goes_on(tmp_path, data, stops=(3, None), **options):
    whole, history = run(tmp_path / "whole", data, **options)
    for stop in stops:
        parts, resumed = run(tmp_path / "parts", data, stop, **options)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)
    assert resumed.best_epoch == history.best_epoch
    assert resumed.history["loss"] == history.history["loss"]
    return history


def ours(balanced=False):
    x, y = table()
    data = ft.from_arrays(x, y, batch_size=8, balanced=balanced, seed=3)
    return data.train, data.validation


@pytest.mark.backends("memory-True")
@pytest.mark.parametrize("cache, balanced", [("off", False), ("memory", True)])
def test_the_data_of_this_library_go_on_in_the_order_of_their_epoch(
    tmp_path, cache, balanced
):
    assert_goes_on(tmp_path, lambda: ours(balanced), cache=cache, plan=TWO)
    # A pass is another than the one before all the same.
    train, _ = ours(balanced)
    orders = [np.concatenate([y for _, y in train]) for _ in range(2)]
    assert (orders[0] != orders[1]).any()


def test_mixed_data_go_on_with_the_draws_of_their_epoch(tmp_path):
    def mixed():
        train, _ = ours()
        labels = lambda x, y: (x, y[:, 0] > 0.5)  # noqa: E731
        return (ft.mix_examples(train, 3, seed=5).map(labels),)

    assert_goes_on(tmp_path, mixed)
    (train,) = mixed()
    first, second = (next(iter(train))[0].numpy() for _ in range(2))
    assert np.abs(first - second).max() > 0


def test_texts_that_are_drawn_anew_go_on_with_the_draws_of_their_epoch():
    """Each epoch has its own, though it is a `fit` of its own."""

    def draw():
        x = np.random.normal(size=(8, 5, 3)).astype("float32")
        return Buckets([(x, np.zeros(8, "int32"))], 4, renew=draw)

    inputs = keras.Input((None, 3))
    x = layers.GlobalAveragePooling1D()(inputs)
    model = keras.Model(inputs, layers.Dense(2, "softmax")(x))
    model.compile("sgd", "sparse_categorical_crossentropy")
    data = Inputs(draw(), model, "train")

    def epoch(number):
        keras.utils.set_random_seed(number)
        data.hold_epoch(number)
        return data.data.parts[0][0]

    first, second, again = (epoch(number) for number in (1, 2, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 0


class Count(keras.callbacks.Callback):
    """Raises the rate by what it has seen: plain data of many kinds."""

    def on_train_begin(self, logs=None):
        self.losses, self.seen, self.array = [], {}, np.zeros(2)

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append(logs["loss"])
        self.seen[epoch] = (len(self.losses), "seen")
        self.array[epoch % 2] += 1e-3
        rate = 1e-3 * len(self.losses) + float(self.array.sum())
        self.model.optimizer.learning_rate = rate


def plateau():
    return keras.callbacks.ReduceLROnPlateau(
        "val_loss", 0.3, patience=2, min_delta=0.2
    )


def stopping():
    return keras.callbacks.EarlyStopping(
        "val_loss", 0.2, patience=3, restore_best_weights=True
    )


@pytest.mark.backends("own")
@pytest.mark.parametrize(
    "callbacks", [[plateau, stopping], [Count]], ids=["of Keras", "own"]
)
def test_callbacks_go_on_with_what_they_have_seen(tmp_path, callbacks):
    arrays = table()
    history = assert_goes_on(
        tmp_path, lambda: (arrays, arrays), callbacks=callbacks
    )
    # They did act.
    assert len(set(history.history["learning_rate"])) > 1
    assert len(history.epochs) == (5 if callbacks == [Count] else 4)


def test_a_run_that_a_callback_ended_is_over(tmp_path):
    """The same call gives the same weights and trains no further epoch."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    first, history = run(tmp_path, lambda: (table(),), callbacks=[Stop])
    again, repeated = run(tmp_path, lambda: (table(),), callbacks=[Stop])
    assert len(history.epochs) == 2
    assert repeated.history == history.history
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_callback_that_is_missing_when_a_run_goes_on_is_refused(tmp_path):
    data = lambda: (table(),)  # noqa: E731
    run(tmp_path, data, 2, callbacks=[Count])
    with pytest.raises(ValueError, match="had the callbacks .'Count'"):
        run(tmp_path, data)


def test_what_a_callback_cannot_keep_is_told_of(tmp_path):
    class Holds(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.best = object()

    with pytest.warns(UserWarning, match="`Holds.best`.*begins without it"):
        run(tmp_path, lambda: (table(),), 2, callbacks=[Holds])


def test_an_order_that_cannot_be_taken_up_again_is_told_of(tmp_path):
    import tensorflow as tf

    def shuffled():
        examples = tf.data.Dataset.from_tensor_slices(table())
        return (examples.shuffle(48).batch(8),)

    with pytest.warns(UserWarning, match="ends with other weights"):
        run(tmp_path / "shuffled", shuffled, 1)
    noise = keras.layers.GaussianNoise(0.1)

    def augmented():
        examples = tf.data.Dataset.from_tensor_slices(table()).batch(8)
        return (examples.map(lambda x, y: (noise(x, training=True), y)),)

    with pytest.warns(UserWarning, match="ends with other weights"):
        run(tmp_path / "augmented", augmented, 1)


# === Damaged states ===


def damage(path, kind):
    data = bytearray(path.read_bytes())
    if kind == "cut":
        data = data[: len(data) // 2]
    elif kind == "empty":
        data = b""
    elif kind == "flipped":
        data[len(data) // 2] ^= 255
    elif kind == "pickled":
        np.savez(path, facts=np.array([{"a": 1}], object), allow_pickle=True)
        return
    elif kind == "compressed":
        np.savez_compressed(path, facts=np.zeros(10**6))
        return
    elif kind == "lacking":
        with np.load(path) as file:
            np.savez(path, facts=file["facts"])
        return
    path.write_bytes(data)


KINDS = ("cut", "empty", "flipped", "pickled", "compressed", "lacking")


@pytest.fixture
def checkpoint(tmp_path):
    with contextlib.closing(Checkpoint(tmp_path, {"plan": 1})) as checkpoint:
        for epoch in (1, 2):
            checkpoint.save({"epoch": epoch, "a": np.arange(1000.0)})
        yield checkpoint


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_before_takes_the_place_of_a_damaged_one(
    tmp_path, checkpoint, kind
):
    damage(tmp_path / "state.npz", kind)
    with pytest.warns(UserWarning, match="state.npz' is damaged.*before"):
        state = checkpoint.load()
    assert state["epoch"] == 1 and state["a"].sum() == 499500


@pytest.mark.parametrize("kind", KINDS)
def test_two_damaged_states_are_one_clear_error(tmp_path, checkpoint, kind):
    for name in ("state.npz", "state.before.npz"):
        damage(tmp_path / name, kind)
    with pytest.raises(ValueError, match="damaged.*delete the file") as caught:
        checkpoint.load()
    assert "allow_pickle" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_run_goes_on_from_the_state_before_a_damaged_one(tmp_path):
    """And ends with the same weights, one epoch later."""
    arrays = table()
    whole, _ = run(tmp_path / "whole", lambda: (arrays,))
    run(tmp_path / "parts", lambda: (arrays,), 4)
    damage(tmp_path / "parts" / "state.npz", "cut")
    with pytest.warns(UserWarning, match="goes on from the state"):
        parts, history = run(tmp_path / "parts", lambda: (arrays,))
    assert len(history.epochs) == 5
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)
