import keras
import numpy as np
import pytest

import finetune_keras as ft

layers = keras.layers


@pytest.fixture(scope="module")
def shared_vgg():
    """For tests that change no layer of it."""
    return small_vgg()


def small_vgg():
    return keras.applications.VGG16(
        weights=None, input_shape=(32, 32, 3), classes=7
    )


def test_classic_recipe_on_a_whole_classifier():
    vgg = small_vgg()
    model = ft.replace_head(
        vgg, num_classes=10, pooling="flatten", hidden_units=(16, 8)
    )
    ft.freeze(model, vgg.layers[:-4])
    assert model.output_shape == (None, 10)
    assert [layer.name for layer in model.layers[-4:]] == [
        "head_flatten",
        "head_dense_1",
        "head_dense_2",
        "head_predictions",
    ]
    assert model.get_layer("block5_conv3") is vgg.get_layer("block5_conv3")
    assert len(model.trainable_variables) == 6
    assert [x.name for x in ft.layer_groups(model)[-1].layers] == [
        "head_dense_1",
        "head_dense_2",
        "head_predictions",
    ]


@pytest.mark.parametrize(
    "name, removed",
    [("VGG16", 6), ("ResNet50", 2), ("MobileNet", 2), ("MobileNetV3Small", 4)],
)
def test_head_of_a_whole_classifier_is_found(name, removed):
    application = getattr(keras.applications, name)
    size = (32, 32, 3) if name == "VGG16" else (64, 64, 3)
    model = application(weights=None, input_shape=size, classes=7)
    top = application(weights=None, input_shape=size, include_top=False)
    bare = ft.remove_head(model)
    assert bare.output_shape == top.output_shape
    assert len(model.weights) - len(bare.weights) == removed
    assert {id(v) for v in bare.weights} < {id(v) for v in model.weights}


@pytest.mark.backends
def test_sequential_tail_and_inner_backbone():
    tail = keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="body"),
            layers.GlobalMaxPooling2D(),
            layers.Dropout(0.5),
            layers.Dense(5, activation="relu"),
            layers.Dense(2),
        ]
    )
    model = ft.replace_head(tail, 3, pooling="max")
    assert [x.name for x in model.layers[1:]] == [
        "body",
        "head_pooling",
        "head_predictions",
    ]
    inputs = keras.Input((8, 8, 3))
    outer = keras.Model(inputs, layers.Dense(4)(ft.remove_head(tail)(inputs)))
    assert ft.replace_head(outer, 6).output_shape == (None, 6)


def test_initialisers_follow_the_activation(shared_vgg):
    def initializer(activation):
        model = ft.replace_head(
            shared_vgg, 3, hidden_units=(4,), activation=activation
        )
        return type(model.get_layer("head_dense_1").kernel_initializer).__name__

    for activation in ("relu", "gelu", "leaky_relu", keras.activations.silu):
        assert initializer(activation) == "HeNormal"
    for activation in ("tanh", "sigmoid"):
        assert initializer(activation) == "GlorotUniform"


def test_tasks_give_their_outputs(shared_vgg):
    x = np.random.default_rng(0).uniform(0, 255, size=(2, 32, 32, 3))
    vgg = shared_vgg
    classes = keras.ops.convert_to_numpy(ft.replace_head(vgg, 4)(x))
    np.testing.assert_allclose(classes.sum(axis=1), 1, atol=1e-5)
    labels = ft.replace_head(vgg, 4, task="multi_label")
    assert labels.layers[-1].activation is keras.activations.sigmoid
    value = ft.replace_head(vgg, 1, task="regression")
    assert value.layers[-1].activation is keras.activations.linear


@pytest.mark.backends
def test_options_are_built_and_saved(tmp_path):
    inputs = keras.Input((8, 8, 3))
    model = ft.replace_head(
        keras.Model(inputs, layers.Conv2D(4, 3)(inputs)),
        3,
        hidden_units=(6,),
        batch_norm=True,
        dropout=0.3,
        kernel_regularizer=keras.regularizers.L1L2(1e-4, 1e-3),
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("head_dropout").rate == 0.3
    assert loaded.get_layer("head_norm_1").built
    regularizer = loaded.get_layer("head_dense_1").kernel_regularizer
    assert float(regularizer.l2) == pytest.approx(1e-3)
    assert len(loaded.losses) == 2


@pytest.mark.backends
def test_outputs_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        vgg = small_vgg()
        model = ft.replace_head(vgg, 3, hidden_units=(4,))
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("head_dense_1").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"


def test_token_pooling_takes_the_first_token():
    inputs = keras.Input((5, 3))
    model = ft.replace_head(keras.Model(inputs, inputs), 2, pooling="token")
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    changed = x.copy()
    changed[:, 1:] += 1
    np.testing.assert_array_equal(
        *(keras.ops.convert_to_numpy(model(part)) for part in (x, changed))
    )


def two_outputs():
    inputs = keras.Input((4,))
    x = layers.Dense(3)(inputs)
    outputs = [layers.Dense(1, name="a")(x), layers.Dense(2, name="b")(x)]
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("num_classes", [1, 0, -2, 2.0, "3", True, None])
def test_fewer_than_two_classes_are_refused(num_classes, shared_vgg):
    with pytest.raises(ValueError, match="num_classes"):
        ft.replace_head(shared_vgg, num_classes)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pooling": "mean"}, "pooling"),
        ({"pooling": "token"}, "token"),
        ({"hidden_units": (0,)}, "hidden_units"),
        ({"hidden_units": 256}, "hidden_units"),
        ({"dropout": 1.0}, "dropout"),
        ({"task": "detection"}, "task"),
    ],
)
def test_bad_options_are_refused(options, message, shared_vgg):
    with pytest.raises(ValueError, match=message):
        ft.replace_head(shared_vgg, 3, **options)


def test_models_that_take_no_head(shared_vgg):
    with pytest.raises(ValueError, match="2 outputs"):
        ft.replace_head(two_outputs(), 3)
    with pytest.raises(ValueError, match="one output"):
        ft.remove_head(two_outputs())
    bare = ft.remove_head(shared_vgg)
    with pytest.raises(ValueError, match="no head"):
        ft.remove_head(bare)
    free = keras.applications.MobileNet(
        alpha=0.25, weights=None, include_top=False
    )
    with pytest.raises(ValueError, match="fixed size"):
        ft.replace_head(free, 3, pooling="flatten")

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="graph"):
        ft.replace_head(Subclassed(), 3)
