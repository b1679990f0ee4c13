"""Subclassed models, and what models hold beside their graph."""

import warnings

import keras
import numpy as np
import pytest

import finetune_keras as ft

layers = keras.layers
X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
Y = np.arange(8) % 2


class HeadFirst(keras.Model):
    """Defines its head first, and holds a teacher that `call` does not see."""

    def __init__(self):
        super().__init__()
        self.head = layers.Dense(2, activation="softmax")
        self.blocks = [layers.Dense(4), layers.Dense(4)]
        self.stem = layers.Dense(4)
        self.norm = layers.LayerNormalization()
        self.teacher = keras.Sequential([keras.Input((4,)), layers.Dense(2)])

    def call(self, x, training=False):
        x = self.norm(self.stem(x))
        for block in self.blocks:
            x = block(x) if training else x + block(x)
        return self.head(x)


def head_first():
    model = HeadFirst()
    model(X)
    return model


def weights_of(*parts):
    return [
        keras.ops.convert_to_numpy(v) for part in parts for v in part.weights
    ]


def moved(before, after):
    pairs = zip(before, after, strict=True)
    return [not np.array_equal(a, b) for a, b in pairs]


@pytest.mark.backends
def test_groups_of_a_subclassed_model_stand_in_the_order_of_its_calls():
    model = head_first()
    groups = ft.layer_groups(model)
    names = [group.name for group in groups]
    assert names == ["stem", "blocks_0", "blocks_1", "head"]
    assert groups[0].layers == [model.stem, model.norm]
    assert ft.select_layers(model, "head") == [model.head]
    assert ft.select_layers(model, "blocks_1") == [model.blocks[1]]
    rates = ft.layerwise_optimizer("sgd", model, decay=0.5)
    rate = rates.learning_rate_multiplier
    assert [rate(g.variables[0]) for g in groups] == [0.125, 0.25, 0.5, 1]


@pytest.mark.backends
def test_the_order_is_known_of_dict_inputs_and_token_ids():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.scores = layers.Dense(2)
            self.embedding = layers.Embedding(5, 3)

        def call(self, inputs):
            words = keras.ops.one_hot(inputs["ids"], 5) @ keras.ops.ones((5, 1))
            x = self.embedding(inputs["ids"]) * words
            return self.scores(keras.ops.mean(x, 1) + inputs["x"])

    model = Model()
    model({"ids": np.ones((2, 6), "int32"), "x": X[:2, :3]})
    names = [group.name for group in ft.layer_groups(model)]
    assert names == ["embedding", "head"]


@pytest.mark.backends
def test_a_call_that_cannot_be_traced_falls_back_with_a_warning():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = layers.Dense(2)
            self.body = layers.Dense(3)

        def call(self, x, scale):
            return self.head(self.body(x * scale))

    model = Model()
    model(X, X)
    with pytest.warns(UserWarning, match="cannot be traced"):
        names = [group.name for group in ft.layer_groups(model)]
    assert names == ["body", "head"]


def test_a_subclassed_model_that_is_not_built_is_refused():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.backbone = keras.Sequential(
                [keras.Input((4,)), layers.Dense(3, name="body")]
            )
            self.top = layers.Dense(2)

        def call(self, x):
            return self.top(self.backbone(x))

    model = Model()
    for refused in (
        lambda: ft.freeze(model, "backbone"),
        lambda: ft.unfreeze(model, model.backbone),
        lambda: ft.trainable_summary(model),
        lambda: ft.Phase("head").select(ft.layer_groups(model)),
    ):
        with pytest.raises(ValueError, match="not built yet.*Call it on a"):
            refused()
    model(X)
    with pytest.warns(UserWarning, match="does not keep the frozen state"):
        ft.freeze(model, "backbone")
    assert model.trainable_variables == model.top.trainable_variables


def test_a_layer_without_weights_yet_is_refused_by_its_name():
    model = distiller()
    model.projector = layers.Dense(3, name="projector")
    with pytest.raises(ValueError, match="'projector' is not built yet"):
        ft.freeze(model, "projector")


def test_the_summary_counts_what_stands_outside_the_graph():
    model = head_first()
    summary = ft.trainable_summary(model)
    assert summary.rows[-1]["group"] == "outside the graph"
    assert summary.rows[-1]["parameters"] == model.teacher.count_params()
    assert summary.num_params == model.count_params()


class Distiller(keras.Model):
    """A functional student that holds its teacher and a loss network."""

    def __init__(self, inputs, outputs, teacher):
        super().__init__(inputs, outputs)
        self.teacher = teacher
        self.critic = layers.Dense(1, name="critic")
        self.critic.build((None, 2))

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight)
        apart = keras.ops.mean((y_pred - self.teacher(x)) ** 2)
        return loss + apart + keras.ops.mean(self.critic(y_pred) ** 2)


def distiller(frozen=True):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((4,))
    x = layers.Dense(3, activation="tanh", name="body")(inputs)
    outputs = layers.Dense(2, activation="softmax", name="out")(x)
    teacher = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="t")])
    teacher.trainable = not frozen
    model = Distiller(inputs, outputs, teacher)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.mark.backends
def test_a_plan_trains_no_teacher_that_was_frozen():
    model = distiller()
    before = weights_of(model.teacher), weights_of(model.critic)
    plan = ft.Plan([ft.Phase("head"), ft.Phase("all")])
    history = ft.fine_tune(model, plan, (X, Y), verbose=0)
    after = weights_of(model.teacher), weights_of(model.critic)
    assert not any(moved(before[0], after[0]))
    assert all(moved(before[1], after[1]))
    assert not model.teacher.trainable and model.critic.trainable
    for row in history.ledger:
        assert row["outside the graph"]["change"] > 0


@pytest.mark.backends
def test_a_phase_that_names_the_teacher_trains_it_and_no_other_does():
    model = distiller()
    before = weights_of(model.teacher)
    plan = ft.Plan([ft.Phase("head"), ft.Phase(["head", "teacher"])])
    with pytest.warns(UserWarning, match="layers such as 'body'"):
        ft.fine_tune(model, plan, (X, Y), verbose=0)
    assert all(moved(before, weights_of(model.teacher)))
    plan = ft.Plan([ft.Phase(["teacher"]), ft.Phase("all")])
    model = distiller()
    ft.fine_tune(model, plan, (X, Y), verbose=0)
    assert not model.teacher.trainable_variables


def test_callbacks_leave_the_teacher_as_it_is():
    model = distiller()
    before = weights_of(model.teacher)
    unfreeze = ft.GradualUnfreeze()
    model.fit(X, Y, epochs=2, callbacks=[unfreeze], verbose=0)
    assert len(model.trainable_variables) == 4 + 2
    assert not any(moved(before, weights_of(model.teacher)))


def test_freezing_a_model_freezes_what_stands_outside_its_graph():
    model = distiller(frozen=False)
    with pytest.warns(UserWarning, match="train the functional model"):
        for spec in ("backbone", keras.layers.Dense, r".*"):
            ft.freeze(model, spec)
    assert len(model.teacher.trainable_variables) == 2
    with pytest.warns(UserWarning, match="train the functional model"):
        ft.freeze(model)
    assert not model.trainable_variables
    ft.unfreeze(model)
    assert len(model.trainable_variables) == 4
    ft.unfreeze(model, "outside the graph")
    assert len(model.trainable_variables) == 4 + 4
    ft.freeze(model, r"sequential.*/t")
    assert not model.teacher.trainable_variables


def test_a_frozen_teacher_that_moves_is_found():
    model = distiller()

    class Momentum(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernel = model.teacher.layers[0].kernel
            kernel.assign(kernel + 1)

    plan = ft.Plan([ft.Phase("head")])
    with pytest.raises(RuntimeError, match="outside the graph"):
        ft.fine_tune(model, plan, (X, Y), callbacks=[Momentum()], verbose=0)


def test_the_file_of_a_subclassed_model_loses_flags_and_says_so():
    """Once, after the last phase, and not if nothing is frozen then."""
    model = head_first()
    model.compile("sgd", "sparse_categorical_crossentropy")
    plan = ft.Plan([ft.Phase("head"), ft.Phase("all")])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The file of")
        ft.fine_tune(model, plan, (X, Y), verbose=0)
    with pytest.warns(UserWarning, match="does not keep the frozen") as told:
        ft.fine_tune(model, ft.Plan([ft.Phase(0)]), (X, Y), verbose=0)
    told = [one for one in told if "does not keep" in str(one.message)]
    assert [one.filename for one in told] == [__file__]


def test_a_head_initializer_is_left_out_for_a_subclassed_model():
    model = head_first()
    model.compile("sgd", "sparse_categorical_crossentropy")
    plan = ft.Plan([ft.Phase("all")], head_initializer="auto")
    history = ft.fine_tune(model, plan, (X, Y), verbose=0)
    assert "no graph" in history.phases[0]["head_initializer"]
    plan = ft.Plan([ft.Phase("all")], head_initializer="ridge")
    with pytest.raises(ValueError, match="Leave out `head_initializer`"):
        ft.fine_tune(model, plan, (X, Y), verbose=0)


def test_layers_of_an_inner_model_beside_its_outputs_are_frozen():
    inputs = keras.Input((4,))
    inner = keras.Model(inputs, layers.Dense(3, name="body")(inputs))
    inner.auxiliary = layers.Dense(2, name="auxiliary")
    inner.auxiliary.build((None, 3))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inner(inputs)))
    assert ft.trainable_summary(model).num_params == model.count_params()
    ft.freeze(model)
    assert not model.trainable_variables


def test_what_was_built_in_a_frozen_model_stays_frozen():
    model = HeadFirst()
    model.trainable = False
    model(X)
    assert not model.trainable_variables
    with pytest.warns(UserWarning, match="does not keep the frozen state"):
        ft.unfreeze(model, "head")
    assert model.trainable_variables == model.head.trainable_variables


@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_integer_means_the_last_groups_everywhere(count):
    inputs = keras.Input((4,))
    x = inputs
    for name in ("one", "two", "three"):
        x = layers.Dense(4, name=name)(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    expected = [layer.name for layer in model.layers[-count - 1 :]]
    for select in (
        ft.select_layers,
        lambda m, n: ft.Phase(n).select(ft.layer_groups(m)),
    ):
        assert [layer.name for layer in select(model, count)] == expected
    ft.freeze(model)
    ft.unfreeze(model, count)
    assert len(model.trainable_variables) == 2 * len(expected)
    ft.unfreeze(model)
    ft.freeze(model, count)
    assert len(model.trainable_variables) == 2 * (4 - len(expected))

    class Last(ft.UnfreezeCallback):
        def groups_to_train(self, epoch, logs=None):
            return count

    model.compile("sgd", "mse")
    model.fit(X, np.ones((8, 2)), callbacks=[Last()], verbose=0)
    assert len(model.trainable_variables) == 2 * len(expected)


def test_a_wrapped_kernel_counts_once():
    inputs = keras.Input((4,))
    x = layers.SpectralNormalization(layers.Dense(3))(inputs)
    model = keras.Model(inputs, layers.Dense(2)(x))
    assert ft.trainable_summary(model).num_params == model.count_params()
    groups = ft.layer_groups(model)
    assert sum(group.num_params for group in groups) == model.count_params()


def test_tied_weights_are_in_one_group():
    class Tied(layers.Layer):
        def __init__(self, embedding, **kwargs):
            super().__init__(**kwargs)
            self.embedding = embedding

        def build(self, shape):
            self.bias = self.add_weight(shape=(5,), name="bias")

        def call(self, x):
            table = keras.ops.transpose(self.embedding.embeddings)
            return keras.ops.matmul(x, table) + self.bias

    inputs = keras.Input((6,), dtype="int32")
    embedding = layers.Embedding(5, 3, name="embedding")
    x = layers.Dense(3, name="middle")(embedding(inputs))
    model = keras.Model(inputs, Tied(embedding, name="lm_head")(x))
    assert ft.trainable_summary(model).num_params == model.count_params()
    ft.freeze(model, "backbone")
    assert [v.name for v in model.trainable_variables] == ["bias"]
