import keras
import numpy as np
import pytest
from scipy.io import wavfile

import finetune_keras as ft
from finetune_keras.testing import randomize

pytestmark = pytest.mark.usefixtures("op_by_op")
RATE = 4000


def waves(count=3, samples=1000):
    rng = np.random.default_rng(0)
    pitch = rng.uniform(100, 1500, (count, 1))
    wave = np.sin(np.arange(samples) * pitch * 2 * np.pi / RATE)
    return (wave * rng.uniform(0.01, 0.9, (count, 1))).astype("float32")


def net(shape, units=4):
    """A backbone on inputs of any rank, with fixed weights."""
    x = inputs = keras.Input(shape)
    kinds = {1: keras.layers.Dense, 2: "Conv1D", 3: "Conv2D"}
    if len(shape) == 1:
        x = kinds[1](units, activation="tanh", name="dense")(x)
    else:
        layer = getattr(keras.layers, kinds[len(shape)])
        x = layer(units, 3, 2, activation="tanh", name="conv")(x)
    return randomize(keras.Model(inputs, x))


def outputs(model, x, **options):
    return keras.ops.convert_to_numpy(model(x, **options))


def classifier(backbone, **options):
    return randomize(
        ft.audio_classifier(backbone, ["a", "b"], RATE, 0.25, **options)
    )


@pytest.mark.parametrize(
    "shape", [(1000,), (1000, 1), (20, 8), (None, None, 1)], ids=str
)
def test_each_backbone_gets_what_it_takes(shape):
    model = classifier(net(shape), augmentation="medium")
    assert model.input_shape == (None, 1000)
    assert model(waves()).shape == (3, 2)
    assert model.task.classes == ["a", "b"]


def test_one_that_scales_pixels_gets_pixels():
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(2, 3, strides=8, name="conv")(x)
    model = classifier(keras.Model(inputs, x))
    scaled = model.get_layer("spectrogram_pixels").output
    pixels = keras.Model(model.inputs, scaled)([waves()])
    pixels = keras.ops.convert_to_numpy(pixels)
    assert pixels.shape == (3, 32, 32, 3)
    assert 100 < pixels.mean() < 150 and 20 < pixels.std() < 60


def test_a_sound_does_not_depend_on_its_neighbours():
    """Keras cuts below the loudest of the batch."""
    model, x = classifier(net((None, 8))), waves()
    quiet = np.concatenate([x[:1] * 1e-3, x[1:]])
    alone = outputs(model, quiet[:1])
    np.testing.assert_allclose(alone, outputs(model, quiet)[:1], atol=1e-5)
    assert np.abs(alone - outputs(model, x[:1])).max() > 0.01


def test_augmentation_is_for_training_alone_and_saves(tmp_path):
    backbone, x = net((None, 8)), waves()
    model = classifier(backbone, augmentation="strong")
    plain = classifier(backbone)
    expected = outputs(plain, x)
    np.testing.assert_allclose(outputs(model, x), expected, atol=1e-6)
    trained = outputs(model, x, training=True)
    assert np.abs(trained - expected).max() > 0.01
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    np.testing.assert_allclose(outputs(loaded, x), expected, atol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="takes 900 samples, and .* are 1000"):
        classifier(net((900,)))
    with pytest.raises(ValueError, match="must take 1 or 3 channels"):
        classifier(net((None, None, 2)))
    with pytest.raises(ValueError, match="functional or sequential model"):
        classifier(keras.layers.Dense(2))


@pytest.mark.backends
def test_a_bundle_reads_files_of_all_rates(tmp_path):
    time = np.arange(22050) / 22050
    paths = {"a": [], "b": []}
    for name, pitch in (("a", 200), ("b", 1200)):
        (tmp_path / name).mkdir()
        for i, rate in enumerate([RATE, 8000, 22050] * 2):
            wave = np.sin(time[: rate // 4] * 22050 / rate * pitch * 2 * np.pi)
            paths[name].append(tmp_path / name / f"{i}.wav")
            wavfile.write(paths[name][-1], rate, (wave * 9999).astype("int16"))
    data = ft.audio_folder(
        tmp_path, RATE, 0.25, validation_split=0, test_split=0, verbose=0
    )
    model = classifier(net((None, 8)))
    x, _ = data.examples(np.arange(12))
    expected = model.predict(x, verbose=0)
    bundle = ft.load_bundle(ft.save_bundle(model, tmp_path / "a.keras", data))
    found = bundle.predict([tmp_path / name for name in data.names])
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert found.names[0].endswith("0.wav") and found.classes == ["a", "b"]
    place = data.names.index("b/2.wav")
    for one in (paths["b"][2], [paths["b"][2].read_bytes()], x[place]):
        np.testing.assert_array_equal(bundle.prepare(one), x[place : place + 1])
    with pytest.raises(ValueError, match="cannot be used"):
        bundle.prepare([tmp_path / "missing.wav"])
    with pytest.raises(ValueError, match="waves from -1 to 1"):
        bundle.predict((x[:2] * 32767).astype("int16"))
