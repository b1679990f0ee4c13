"""Random models of every make: frozen is frozen, cached is equal, saved is so.

The default is 25 models. 200 of them:

    FINETUNE_KERAS_RANDOM_MODELS=200 pytest tests/trust/random_models_test.py
"""

import os

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras import testing
from finetune_keras.testing.weights import live_statistics, named_weights

layers = keras.layers
COUNT = int(os.environ.get("FINETUNE_KERAS_RANDOM_MODELS", 25))
SIZE, STEPS, WIDTH, WORDS = 16, 6, 6, 11


@keras.saving.register_keras_serializable("random_models")
class Residual(layers.Layer):
    """A composite layer, of which Keras's own flags forget the parts."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.dense = layers.Dense(width, "tanh", name="dense")
        self.norm = layers.LayerNormalization(name="norm")

    def build(self, shape):
        self.dense.build(shape)
        self.norm.build(shape)
        self.built = True

    def call(self, x):
        return self.norm(x + self.dense(x))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("random_models")
class Subclassed(keras.Model):
    """A model without a graph."""

    def __init__(self, shape, classes, **kwargs):
        super().__init__(**kwargs)
        self.shape_, self.classes = shape, classes
        # Defined before what it reads.
        self.head = layers.Dense(classes, "softmax", name="head")
        self.stem = layers.Dense(WIDTH, "tanh", name="stem")
        self.norm = layers.BatchNormalization(name="norm")
        self.upper = Residual(WIDTH, name="upper")

    def build(self, shape):
        self.stem.build(shape)
        for layer in (self.norm, self.upper, self.head):
            layer.build((None, WIDTH))
        self.built = True

    def call(self, x, training=None):
        x = self.norm(self.stem(x), training=training)
        return self.head(self.upper(x))

    def get_config(self):
        config = super().get_config()
        return {**config, "shape": self.shape_, "classes": self.classes}


class Maker:
    """Draws a model: inputs, trunks, what joins them, heads.

    Args:
        seed: Integer.
    """

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.makes = {
            "vector": (self.vector, (5,)),
            "image": (self.image, (8, 8, 2)),
            "tokens": (self.tokens, (STEPS,)),
            "series": (self.series, (STEPS, 3)),
        }
        self.data = {}
        self.count = 0

    def chance(self, share):
        return self.rng.random() < share

    def name(self, kind):
        self.count += 1
        return f"{kind}_{self.count}"

    def model(self):
        """Returns a model, and its data as `(x, y)`."""
        if self.chance(0.12):
            return self.subclassed()
        names = list(self.makes)
        kinds = [str(self.rng.choice(names)) for _ in range(self.inputs())]
        inputs, outputs = [], []
        for i, kind in enumerate(kinds):
            make, shape = self.makes[kind]
            dtype = "int32" if kind == "tokens" else "float32"
            inputs.append(keras.Input(shape, dtype=dtype, name=f"in_{i}"))
            self.data[f"in_{i}"] = self.values(kind, shape)
            outputs.append(self.trunk(make, inputs[-1]))
        x = outputs[0]
        if len(outputs) > 1:
            x = layers.Concatenate(name="join")(outputs)
        x = self.dense_block(x)
        if len(inputs) == 1:
            inputs, self.data = inputs[0], self.data["in_0"]
        return self.headed(inputs, x)

    def inputs(self):
        return 2 if self.chance(0.25) else 1

    def headed(self, inputs, x):
        heads = {"label": layers.Dense(3, "softmax", name="label")(x)}
        y = {"label": self.rng.permutation(np.arange(SIZE) % 3)}
        loss = {"label": "sparse_categorical_crossentropy"}
        if self.chance(0.2):
            heads["amount"] = layers.Dense(1, name="amount")(x)
            y["amount"] = self.rng.normal(size=(SIZE, 1)).astype("float32")
            loss["amount"] = "mse"
        if len(heads) == 1:
            heads, y, loss = heads["label"], y["label"], loss["label"]
        model = keras.Model(inputs, heads)
        return self.compiled(model, loss), (self.data, y)

    def subclassed(self):
        x = self.values("vector", (5,))
        model = Subclassed((5,), 3)
        model(x[:2])
        y = self.rng.permutation(np.arange(SIZE) % 3)
        return self.compiled(model, "sparse_categorical_crossentropy"), (x, y)

    def compiled(self, model, loss):
        testing.randomize(model, int(self.rng.integers(100)))
        rate = keras.optimizers.SGD(0.05, momentum=0.5)
        model.compile(rate, loss)
        return model

    def values(self, kind, shape):
        size = (SIZE, *shape)
        if kind == "tokens":
            tokens = self.rng.integers(1, WORDS, size)
            tokens[:, -2:] *= self.rng.integers(0, 2, (SIZE, 2))
            return tokens.astype("int32")
        if kind == "image":
            return self.rng.integers(0, 256, size).astype("float32")
        return self.rng.normal(size=size).astype("float32")

    # === Trunks ===

    def trunk(self, make, inputs):
        if not self.chance(0.4):
            return make(inputs)
        inner = keras.Input(inputs.shape[1:], dtype=inputs.dtype)
        nested = keras.Model(inner, make(inner), name=self.name("nested"))
        return nested(inputs)

    def vector(self, x):
        if self.chance(0.4):
            norm = layers.Normalization(
                mean=0.1, variance=1.5, name=self.name("normalization")
            )
            x = norm(x)
        x = layers.Dense(WIDTH, "tanh", name=self.name("stem"))(x)
        if self.chance(0.4):
            shared = layers.Dense(WIDTH, "tanh", name=self.name("shared"))
            x = layers.Add(name=self.name("add"))([shared(shared(x)), x])
        return self.dense_block(x)

    def dense_block(self, x):
        width = x.shape[-1]
        kind = self.rng.choice(["norm", "residual", "gate", "composite"])
        if kind == "composite":
            return Residual(width, name=self.name("residual"))(x)
        y = layers.Dense(width, name=self.name("dense"))(x)
        y = layers.Activation("tanh", name=self.name("tanh"))(y)
        if kind == "norm":
            # Right behind the dense layer it would take away what a bias adds,
            # here or in a layer before: that would not move.
            y = layers.BatchNormalization(name=self.name("norm"))(y)
        if self.chance(0.3):
            y = layers.Dropout(0.2, name=self.name("dropout"))(y)
        join = {"residual": layers.Add, "gate": layers.Multiply}.get(kind)
        return join(name=self.name("join"))([x, y]) if join else y

    def image(self, x):
        if self.chance(0.7):
            x = layers.Rescaling(1 / 127.5, -1, name=self.name("scale"))(x)
        else:
            x = layers.Rescaling(1 / 255, name=self.name("scale"))(x)
        for i in range(int(self.rng.integers(1, 4))):
            x = self.convolution(x, i)
        return layers.GlobalAveragePooling2D(name=self.name("pool"))(x)

    def convolution(self, x, index):
        kinds = (layers.Conv2D, layers.SeparableConv2D)
        kind = kinds[int(self.rng.integers(2))]
        y = kind(
            WIDTH, 3, padding="same", use_bias=False, name=self.name("conv")
        )(x)
        y = layers.BatchNormalization(name=self.name("norm"))(y)
        y = layers.Activation("tanh", name=self.name("tanh"))(y)
        if index and self.chance(0.5):
            return layers.Add(name=self.name("add"))([x, y])
        return y

    def tokens(self, x):
        mask = self.chance(0.5)
        name = self.name("embedding")
        x = layers.Embedding(WORDS, WIDTH, mask_zero=mask, name=name)(x)
        return self.sequence(x)

    def series(self, x):
        name = self.name("conv")
        conv = layers.Conv1D(WIDTH, 3, padding="causal", name=name)
        return self.sequence(conv(x))

    def sequence(self, x):
        for _ in range(int(self.rng.integers(1, 3))):
            x = self.attention(x) if self.chance(0.5) else self.recurrent(x)
        return layers.GlobalAveragePooling1D(name=self.name("pool"))(x)

    def attention(self, x):
        # Softmax takes no notice of a bias on the keys: it would not move.
        attention = layers.MultiHeadAttention(
            2, 3, use_bias=False, name=self.name("attention")
        )
        x = layers.Add(name=self.name("add"))([x, attention(x, x)])
        return layers.LayerNormalization(name=self.name("norm"))(x)

    def recurrent(self, x):
        kind = (layers.LSTM, layers.GRU)[int(self.rng.integers(2))]
        name = self.name("recurrent")
        layer = kind(WIDTH // 2, return_sequences=True, name=name)
        return layers.Bidirectional(layer, name=f"{name}_both")(x)


def fine_tune(seed, cache):
    """Trains the model of a seed; returns it, its data and two snapshots."""
    keras.utils.set_random_seed(seed)
    maker = Maker(seed)
    model, data = maker.model()
    groups = ft.layer_groups(model)
    last = int(maker.rng.integers(1, max(2, len(groups))))
    plan = ft.Plan([ft.Phase(last, epochs=2, learning_rate=0.05)])
    before = testing.weights_snapshot(model)
    history = ft.fine_tune(
        model, plan, data, cache=cache, batch_size=8, verbose=0
    )
    return model, data, before, history


def predictions(model, x):
    outputs = keras.tree.flatten(model(x, training=False))
    return [keras.ops.convert_to_numpy(output) for output in outputs]


def flags(model):
    """Dict from the path of each weight to whether it trains."""
    ids = {id(v) for v in model.trainable_variables}
    return {path: id(v) in ids for path, v in named_weights(model).items()}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(COUNT))
def test_a_random_model(seed, tmp_path, request):
    # Four steps are cheaper untraced; each fifth model runs as a user's.
    if seed % 5 != 1:
        request.getfixturevalue("op_by_op")
    model, (x, _), before, _ = fine_tune(seed, "off")
    after = testing.weights_snapshot(model)
    trained = flags(model)
    moving = live_statistics(model)
    assert any(trained.values())
    for path, trains in trained.items():
        same = np.array_equal(before[path], after[path])
        assert same != (trains or path in moving), path

    cached, _, _, history = fine_tune(seed, "memory")
    assert cached.trainable_variables and history.phases[0]["cache"]
    for path, value in testing.weights_snapshot(cached).items():
        np.testing.assert_allclose(
            value, after[path], rtol=1e-4, atol=1e-5, err_msg=path
        )

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    pairs = zip(predictions(model, x), predictions(loaded, x), strict=True)
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    # A class of one's own builds its layers anew: a warning has said so.
    if not isinstance(model, Subclassed):
        assert list(flags(loaded).values()) == list(trained.values())
