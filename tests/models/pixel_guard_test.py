import copy
import pickle
import warnings

import keras
import numpy as np
import pytest

from finetune_keras.engine.graph import change_class
from finetune_keras.models.model import FineTuneModel
from finetune_keras.models.pixel_guard import (
    guard_pixels,
    guards_pixels,
    looks_scaled,
)
from finetune_keras.models.preprocessing import scale_pixels
from finetune_keras.testing.processes import FreshProcess

RNG = np.random.default_rng(0)
RAW = RNG.uniform(0, 255, (40, 8, 8, 3)).astype("float32")
SCALED = RAW / 255
TARGETS = RNG.uniform(size=(40, 2)).astype("float32")


def make(guard=guard_pixels, mode="tf", optimizer="sgd"):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 3)(scale_pixels(inputs, mode))
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(2)(x)
    model = guard(keras.Model(inputs, outputs, name="small"))
    model.compile(optimizer, "mse")
    return model


def messages(function, *args, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*args, **kwargs)
    texts = [str(w.message) for w in caught if w.category is UserWarning]
    return [text for text in texts if text.startswith("Pixels look scaled")]


@pytest.mark.parametrize(
    "x, expected",
    [
        (RAW, False),
        (SCALED, True),
        (RAW / 127.5 - 1, True),
        ((RAW - 120) / 57, True),
        (RAW - 110, True),
        (RAW - 5, False),  # interpolation undershoots a little
        (RAW.astype("uint8"), False),
        ((SCALED > 0.5).astype("int32"), False),
        (np.zeros((2, 8, 8, 3)), False),
        (np.ones((2, 8, 8, 3)), False),
        (np.full((2, 8, 8, 3), np.nan), False),
        (SCALED[:0], False),
        (SCALED.tolist(), True),
        (SCALED.astype("float16"), True),
    ],
)
def test_looks_scaled(x, expected):
    assert looks_scaled(x) is expected
    if isinstance(x, np.ndarray):
        assert looks_scaled(keras.ops.convert_to_tensor(x)) is expected


CALLS = {
    "fit": lambda m, x: m.fit(x, TARGETS, verbose=0, epochs=2),
    "evaluate": lambda m, x: m.evaluate(x, TARGETS, verbose=0),
    "predict": lambda m, x: m.predict(x, verbose=0),
    "train_on_batch": lambda m, x: m.train_on_batch(x, TARGETS),
    "test_on_batch": lambda m, x: m.test_on_batch(x, TARGETS),
    "predict_on_batch": lambda m, x: m.predict_on_batch(x),
    "__call__": lambda m, x: m(x),
}


@pytest.mark.backends("fit", "__call__")
@pytest.mark.parametrize("name", CALLS)
def test_warns_once_of_scaled_pixels(name):
    model = make()
    assert not messages(CALLS[name], model, RAW.astype("uint8"))
    (message,) = messages(CALLS[name], model, SCALED)
    low, high = SCALED[:32].min(), SCALED[:32].max()
    if not name.endswith("_batch") and name != "__call__":
        assert f"(minimum {low:.3g}, maximum {high:.3g})" in message
    assert "raw 0..255" in message
    assert not messages(CALLS[name], model, SCALED)


@pytest.mark.backends("fit", "__call__")
@pytest.mark.parametrize("name", CALLS)
def test_silent_on_raw_pixels(name):
    model = make()
    assert not messages(CALLS[name], model, RAW)
    tensor = keras.ops.convert_to_tensor(RAW)
    assert not messages(CALLS[name], make(), tensor)


def test_warning_points_to_the_line_of_the_user():
    with pytest.warns(UserWarning, match="Pixels look") as caught:
        make().predict(SCALED, verbose=0)
    assert caught[0].filename == __file__


@pytest.mark.backends
def test_tensors_lists_and_dicts_are_looked_at():
    tensor = keras.ops.convert_to_tensor(SCALED)
    assert messages(make(), tensor)
    assert messages(make().predict, [SCALED], verbose=0)
    inputs = keras.Input((8, 8, 3), name="image")
    model = guard_pixels(
        keras.Model({"image": inputs}, keras.layers.Flatten()(inputs))
    )
    assert messages(model.predict, {"image": SCALED}, verbose=0)


@pytest.mark.backends
def test_silent_on_symbolic_tensors_constants_and_other_inputs():
    model = make()
    assert not messages(model, keras.Input((8, 8, 3)))
    assert not messages(model, np.zeros((1, 8, 8, 3)))
    # None of these was a look at pixels, so the next one is the first.
    assert messages(model, SCALED)


def test_generator_is_not_consumed():
    taken = []

    def generate():
        for start in (0, 8, 16):
            taken.append(start)
            yield RAW[start : start + 8], TARGETS[start : start + 8]

    make().fit(generate(), verbose=0, steps_per_epoch=3)
    assert taken == [0, 8, 16]


def test_py_dataset_is_looked_at():
    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 5

        def __getitem__(self, i):
            part = slice(8 * i, 8 * i + 8)
            return SCALED[part], TARGETS[part]

    assert len(messages(make().fit, Data(), verbose=0)) == 1


def batches(x):
    return ((x[i : i + 8], TARGETS[i : i + 8]) for i in range(0, 40, 8))


def test_generators_are_looked_at_as_they_flow_by():
    assert len(messages(make().fit, batches(SCALED), verbose=0)) == 1
    assert not messages(make().fit, batches(RAW), verbose=0)


def test_a_loader_is_looked_at_and_trains_as_before():
    torch = pytest.importorskip("torch")

    def loader(x):
        pairs = torch.utils.data.TensorDataset(*map(torch.tensor, (x, TARGETS)))
        torch.manual_seed(4)
        return torch.utils.data.DataLoader(pairs, 8, shuffle=True)

    assert len(messages(make().fit, loader(SCALED), verbose=0)) == 1
    trained = []
    for guard in (guard_pixels, lambda model: model):
        model = make(guard)
        assert not messages(model.fit, loader(RAW), verbose=0, shuffle=False)
        trained.append(model.get_weights())
    for guarded, plain in zip(*trained, strict=True):
        np.testing.assert_array_equal(guarded, plain)


def dataset(x, seed=3):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((x, TARGETS))
    return data.shuffle(40, seed=seed).batch(8)


def test_dataset_is_looked_at_once():
    assert len(messages(make().fit, dataset(SCALED), epochs=2, verbose=0)) == 1
    assert len(messages(make().predict, dataset(SCALED), verbose=0)) == 1
    assert not messages(make().fit, dataset(RAW), verbose=0)
    assert not messages(make().fit, dataset(RAW.astype("uint8")), verbose=0)


@pytest.mark.backends
def test_dataset_trains_a_guarded_model_as_a_plain_one():
    trained = []
    for guard in (guard_pixels, lambda model: model):
        model = make(guard, optimizer="adam")
        model.fit(dataset(RAW), epochs=2, verbose=0)
        trained.append(model.get_weights())
    for guarded, plain in zip(*trained, strict=True):
        np.testing.assert_array_equal(guarded, plain)


LOAD = """
import sys
sys.modules["finetune_keras"] = None  # cannot be imported
import keras
import numpy as np
model = keras.models.load_model(sys.argv[1])
arrays = np.load(sys.argv[2])
got = model.predict(arrays["x"], verbose=0)
np.testing.assert_allclose(got, arrays["y"], atol=1e-6)
model.fit(arrays["x"], arrays["y"] + 1, verbose=0, shuffle=False)
np.save(sys.argv[3], model.predict(arrays["x"], verbose=0))
"""


def test_file_needs_nothing_but_keras(tmp_path):
    # The one scaling with an operation.
    model = make(mode="caffe", optimizer="adam")
    model.fit(RAW, TARGETS, verbose=0)
    predicted = model.predict(RAW, verbose=0)
    paths = [str(tmp_path / n) for n in ("m.keras", "in.npz", "out.npy")]
    model.save(paths[0])
    np.savez(paths[1], x=RAW, y=predicted)
    process = FreshProcess("-c", LOAD, *paths)
    assert process.wait() == 0, process.stderr
    # Trained on with the optimizer's state, here as there.
    model.fit(RAW, predicted + 1, verbose=0, shuffle=False)
    expected = model.predict(RAW, verbose=0)
    assert not np.allclose(expected, predicted, atol=1e-4)
    np.testing.assert_allclose(np.load(paths[2]), expected, atol=1e-5)


def test_copies():
    model = make(optimizer="adam")
    model.fit(RAW, TARGETS, verbose=0)
    expected = model.predict(RAW, verbose=0)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert not guards_pixels(clone)
    part = keras.Model(model.inputs, model.output)
    assert not guards_pixels(part)
    pickled = pickle.loads(pickle.dumps(model))
    assert int(pickled.optimizer.iterations) == 2
    for other in (clone, part, pickled, copy.deepcopy(model)):
        np.testing.assert_allclose(other.predict(RAW, verbose=0), expected)


def test_guard_inside_another_model_is_silent():
    inputs = keras.Input((8, 8, 3))
    outer = keras.Model(inputs, make()(inputs))
    assert guards_pixels(outer.layers[1])
    if keras.backend.backend() != "torch":  # where nothing is traced
        assert not messages(outer.predict, SCALED, verbose=0)


def test_the_guard_outlives_a_change_of_class(tmp_path):
    model = make()
    change_class(model, FineTuneModel)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not messages(loaded.predict, SCALED, verbose=0)
    assert messages(model.predict, SCALED, verbose=0)
    assert not messages(model.predict, SCALED, verbose=0)
