import keras
import numpy as np
import pytest

import finetune_keras as ft

# Groups are told from the graph, whatever computes it.
layers = keras.layers


def names(model, **kwargs):
    return [group.name for group in ft.layer_groups(model, **kwargs)]


def assert_partition(model):
    grouped = [v.path for g in ft.layer_groups(model) for v in g.variables]
    assert sorted(grouped) == sorted({v.path for v in model.weights})


def small_residual_net():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    x = layers.BatchNormalization()(x)
    for _ in range(3):
        y = layers.Conv2D(4, 3, padding="same")(x)
        y = layers.BatchNormalization()(y)
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


def test_names_that_a_person_would_say():
    apps = keras.applications
    vgg = apps.VGG16(weights=None, include_top=False)
    blocks = [f"block{i}" for i in range(1, 6)]
    assert names(vgg) == blocks
    mobile = apps.MobileNet(alpha=0.25, weights=None)
    blocks = [f"block{i}" for i in range(1, 14)]
    assert names(mobile) == ["stem", *blocks, "head"]
    assert_partition(mobile)
    resnet = names(apps.ResNet50(weights=None))
    assert resnet[:2] == ["stem", "conv2_block1"]
    assert resnet[-2:] == ["conv5_block3", "head"]
    efficient = names(apps.EfficientNetB0(weights=None))
    assert efficient[:2] == ["stem", "block1a"]
    assert efficient[-2:] == ["top", "head"]
    inception = names(apps.InceptionV3(weights=None))
    assert inception == ["stem", *[f"mixed{i}" for i in range(11)], "head"]


def test_blocks_without_names_follow_from_the_graph():
    model = small_residual_net()
    assert names(model) == ["stem", "block1", "block2", "block3", "head"]
    assert_partition(model)
    assert all(group.cut is not None for group in ft.layer_groups(model)[1:])


def test_granularity_layer_has_a_group_for_each_layer():
    model = small_residual_net()
    groups = ft.layer_groups(model, granularity="layer")
    assert [len(group.layers) for group in groups] == [1] * 9
    assert groups[-1].name == "head"
    with pytest.raises(ValueError, match="granularity"):
        ft.layer_groups(model, granularity="stage")


@pytest.mark.backends
def test_cut_splits_the_model_exactly():
    model = small_residual_net()
    x = np.random.default_rng(0).normal(size=(3, 16, 16, 3))
    expected = model.predict(x, verbose=0)
    for group in ft.layer_groups(model)[1:]:
        prefix = keras.Model(model.inputs, group.cut)
        suffix = keras.Model(group.cut, model.outputs)
        stored = prefix.predict(x, verbose=0)
        np.testing.assert_allclose(
            suffix.predict(stored, verbose=0)[0], expected[0], atol=1e-6
        )
        inside = {id(v) for v in prefix.weights}
        assert not inside & {id(v) for v in group.variables}


def test_inner_models_are_opened():
    base = keras.applications.MobileNet(
        alpha=0.25, weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    inputs = keras.Input((32, 32, 3))
    x = layers.GlobalAveragePooling2D()(base(inputs))
    x = layers.Dense(8, activation="relu")(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    assert names(model)[0] == "stem"
    assert names(model)[-2:] == ["block13", "head"]
    assert len(ft.layer_groups(model)[-1].layers) == 2
    assert_partition(model)


def test_sequential_and_multi_input_and_shared_layers():
    tail = keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.Conv2D(4, 3),
            layers.Flatten(),
            layers.Dense(5),
            layers.Dense(2),
        ]
    )
    groups = ft.layer_groups(tail)
    assert [len(group.layers) for group in groups] == [2, 1, 2]
    assert groups[-1].name == "head"
    left, right = keras.Input((4,)), keras.Input((4,))
    shared = layers.Dense(5, name="shared")
    x = layers.Concatenate()([shared(left), shared(right)])
    x = layers.Dense(3, activation="relu", name="joint")(x)
    outputs = [layers.Dense(1, name="a")(x), layers.Dense(2, name="b")(x)]
    siamese = keras.Model([left, right], outputs)
    assert names(siamese) == ["shared", "joint", "head"]
    head = ft.layer_groups(siamese)[-1].layers
    assert {layer.name for layer in head} == {"a", "b"}
    assert_partition(siamese)


def test_a_mask_forbids_a_cut():
    model = keras.Sequential(
        [
            layers.Input((10,)),
            layers.Embedding(20, 8, mask_zero=True),
            layers.LSTM(4, return_sequences=True, name="lower"),
            layers.LSTM(4, name="upper"),
            layers.Dense(1),
        ]
    )
    groups = {group.name: group for group in ft.layer_groups(model)}
    assert list(groups)[-3:] == ["lower", "upper", "head"]
    assert groups["upper"].cut is None
    assert groups["head"].cut is not None


@pytest.mark.backends
def test_subclassed_model_that_cannot_be_traced_says_what_it_does():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = layers.Dense(3, name="body")
            self.out = layers.Dense(2)

        def call(self, x, scale):
            return self.out(self.body(x * scale))

    model = Model()
    with pytest.raises(ValueError, match="no|none"):
        ft.layer_groups(model)
    model(np.ones((1, 4)), np.ones((1, 4)))
    with pytest.warns(UserWarning, match="subclassed"):
        assert names(model) == ["body", "head"]


def test_backbone_without_head_has_no_head():
    base = keras.applications.ResNet50(weights=None, include_top=False)
    assert names(base)[-1] == "conv5_block3"
    pooled = keras.applications.MobileNet(
        alpha=0.25, weights=None, include_top=False, pooling="avg"
    )
    assert names(pooled)[-1] == "block13"


def test_segmentation_head_is_the_last_pointwise_convolution():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    model = keras.Model(inputs, layers.Conv2D(2, 1, activation="softmax")(x))
    assert names(model)[-1] == "head"
    assert len(ft.layer_groups(model)[-1].layers) == 1


@pytest.mark.backends
def test_flatten_opens_inner_models_with_shared_weights():
    base = keras.Sequential(
        [layers.Input((4,)), layers.Dense(5, name="same")], name="base"
    )
    inputs = keras.Input((4,))
    outputs = layers.Dense(2, name="same")(base(inputs))
    model = keras.Model(inputs, outputs)
    x = np.random.default_rng(1).normal(size=(3, 4))
    expected = model.predict(x, verbose=0)
    flat = ft.inline_models(model)
    assert not any(isinstance(x, keras.Model) for x in flat.layers)
    assert {id(v) for v in flat.weights} == {id(v) for v in model.weights}
    np.testing.assert_array_equal(flat.predict(x, verbose=0), expected)
    assert ft.inline_models(flat) is flat


def test_subclassed_model_with_norms_and_a_weight_of_its_own():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.norm = layers.Dense(4), layers.BatchNormalization()
            self.two = layers.Dense(4)
            self.last_norm = layers.BatchNormalization()
            self.out = layers.Dense(2, activation="softmax")
            self.token = self.add_weight(shape=(4,), name="token")

        def call(self, x, training=False):
            x = self.norm(self.one(x + self.token), training=training)
            x = self.last_norm(self.two(x), training=training)
            return self.out(x)

    model = Model()
    model(np.ones((1, 4)))
    groups = ft.layer_groups(model)
    assert [group.layers for group in groups] == [
        [model, model.one, model.norm],
        [model.two, model.last_norm],
        [model.out],
    ]
    assert sum(group.num_params for group in groups) == sum(
        keras.ops.size(v) for v in model.weights
    )
    ft.plans.gradual(3).check(ft.layer_groups(model))
    with pytest.warns(UserWarning, match="does not keep the frozen state"):
        ft.freeze(model, groups[0])
        # Its own weight is frozen, and hides nothing else.
        assert len(model.trainable_variables) == 6
        ft.unfreeze(model, groups[0])
        assert len(model.trainable_variables) == 6 + 3


# === Groups that a person or a model states ===


def blocks():
    x = inputs = keras.Input((8, 8, 3))
    for i in range(3):
        x = layers.Conv2D(4, 3, padding="same", name=f"stage{i // 2}_{i}")(x)
        x = layers.BatchNormalization(name=f"stage{i // 2}_{i}_norm")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def test_groups_by_names_and_expressions():
    model = blocks()
    groups = ft.LayerGroups(model, [r"stage\d", "head"])
    assert [group.name for group in groups] == ["stage0", "stage1", "head"]
    assert [len(group.layers) for group in groups] == [4, 2, 1]
    assert groups.cut(1) is model.get_layer("stage0_1_norm").output
    assert groups["stage1"] is groups[1] and groups[-1] is groups.head
    assert groups.backbone == groups[:2]
    assert [x.name for x in groups.select(1)] == [
        "stage1_2", "stage1_2_norm", "head",
    ]  # fmt: skip
    assert groups.variables["stage1_2/kernel"] is groups[1].layers[0].kernel
    ft.freeze(groups)
    ft.unfreeze(groups, "stage1")
    kernel = model.get_layer("stage1_2").kernel
    assert [v.path for v in model.trainable_variables][0] == kernel.path
    rows = ft.trainable_summary(groups).rows
    assert [row["group"] for row in rows] == ["stage0", "stage1", "head"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["stage0", "head"], "Without a group: .'stage1_2'"),
        (["stage", "neck", "head"], "without layers: .'neck'"),
    ],
)
def test_names_that_leave_layers_or_find_none_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        ft.LayerGroups(blocks(), names)


def test_a_group_that_is_not_there_is_told():
    with pytest.raises(KeyError, match="there are .'stage0'"):
        ft.layer_groups(blocks())["stage9"]


class Stated(keras.Model):
    def __init__(self):
        super().__init__()
        self.low = layers.Dense(3)
        self.mid = layers.Dense(3)
        self.head = layers.Dense(2)

    def call(self, x):
        return self.head(self.mid(self.low(x)))

    def layer_groups(self):
        return ["^dense", "head"]


def test_a_model_states_its_groups():
    model = Stated()
    model(np.ones((1, 4)))
    for layer, name in zip(
        model.layers, ("dense_a", "dense_b", "x"), strict=True
    ):
        layer.name = name
    groups = ft.layer_groups(model)
    assert [group.name for group in groups] == ["dense", "head"]
    assert ft.select_layers(model, 0) == [model.head]
    assert len(ft.layer_groups(model, granularity="layer")) == 3


def test_a_plan_means_the_groups_that_it_is_given():
    model = blocks()
    groups = ft.LayerGroups(model, [r"stage\d", "head"])
    plan = ft.Plan([ft.Phase(1, learning_rate=0.1, layerwise_lr_decay=0.5)])
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3))
    data = x, np.arange(8) % 2
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    history = ft.fine_tune(groups, plan, data, verbose=0)
    (ledger,) = history.ledger
    assert list(ledger) == ["stage0", "stage1", "head"]
    assert [entry["trained"] for entry in ledger.values()] == [0, 1, 1]
    assert ledger["stage1"]["change"] > 0
