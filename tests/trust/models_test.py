"""What heads, groups and flags do to the model that a user brought."""

import keras
import numpy as np
import pytest

import finetune_keras as ft

TOKENS, LENGTH = 12, 6


def text_classifier(middle="plain", nested=False):
    """The textbook classifier of padded texts; `body` ends what is kept."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(TOKENS, 8, mask_zero=True, name="embedding")(inputs)
    if middle == "dense":
        x = layers.Dense(8, activation="relu", name="hidden")(x)
    elif middle == "norm":
        x = layers.LayerNormalization(name="norm")(x)
    elif middle == "attention":
        y = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
        x = layers.LayerNormalization(name="norm")(layers.Add()([x, y]))
    body = x
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(3, activation="softmax", name="old")(x)
    model = keras.Model(inputs, x)
    if nested:
        model = keras.Sequential([keras.Input((LENGTH,)), model])
    return model, keras.Model(inputs, body)


def padded_texts(count=96):
    """Texts of token 1 or 2 among others, more padding than words."""
    rng = np.random.default_rng(3)
    y = np.arange(count) % 2
    x = rng.integers(3, TOKENS, (count, LENGTH))
    x[:, 0] = y + 1
    x[:, 3:] = 0
    return x, y


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("middle", ["plain", "dense", "norm", "attention"])
def test_the_body_of_a_masked_text_classifier_is_kept(middle, nested):
    model, body = text_classifier(middle, nested)
    x, _ = padded_texts(8)
    expected = keras.ops.convert_to_numpy(body(x))
    cut = ft.remove_head(model)
    np.testing.assert_array_equal(cut(x), expected)
    new = ft.replace_head(model, 2)
    real = (x != 0)[:, :, None]
    pooled = (expected * real).sum(1) / real.sum(1)
    head = new.get_layer("head_predictions")
    np.testing.assert_allclose(new(x), head(pooled), rtol=1e-5)
    kept = {v.path for v in body.weights}
    assert kept == {v.path for v in new.weights[:-2]}


def test_a_masked_text_classifier_learns_with_its_new_head():
    model, _ = text_classifier("dense")
    model = ft.replace_head(model, 2)
    model.compile(
        keras.optimizers.Adam(0.02),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    x, y = padded_texts()
    model.fit(x, y, epochs=12, verbose=0)
    assert model.evaluate(x, y, verbose=0)[1] > 0.95


def test_a_new_head_that_takes_the_maximum_leaves_padding_out():
    model, body = text_classifier()
    x, _ = padded_texts(8)
    new = ft.replace_head(model, 2, pooling="max")
    features = keras.ops.convert_to_numpy(body(x))
    head = new.get_layer("head_predictions")
    expected = head(features[:, :3].max(axis=1))
    np.testing.assert_allclose(new(x), expected, rtol=1e-5)


def test_a_new_head_reads_every_branch_of_the_backbone():
    inputs = keras.Input((8, 8, 3))
    branches = [
        keras.layers.Conv2D(4, size, padding="same", name=f"conv_{size}")(
            inputs
        )
        for size in (1, 3)
    ]
    pools = [keras.layers.GlobalAveragePooling2D()(x) for x in branches]
    x = keras.layers.concatenate(pools)
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    new = ft.replace_head(model, 3)
    assert {"conv_1", "conv_3"} <= {layer.name for layer in new.layers}
    assert ft.remove_head(model).output_shape == (None, 8)
