"""Groups as an expert would list them: the table of docs/layer_groups.md.

The models are as small as they come, and each prints its groups beside those
of the table.
"""

import json
import pathlib
import re

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing.processes import FreshProcess

layers = keras.layers
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "layer_groups.md"


def table():
    """Dict from a model to the list of an expert."""
    section = PAGE.read_text().partition("## What an expert would say")[2]
    rows = [line.split("|")[1:3] for line in section.splitlines()[4:]]
    return {
        row[0].strip(): re.findall("`(.*?)`", row[1])
        for row in rows
        if len(row) == 2
    }


def hub():
    return pytest.importorskip(
        "keras_hub", reason="needs finetune_keras[text]"
    ).models


def resnet(filters):
    return hub().ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=filters,
        stackwise_num_blocks=[1] * len(filters),
        stackwise_num_strides=[1] + [2] * (len(filters) - 1),
        block_type="basic_block",
        use_pre_activation=True,
    )


def deep_lab():
    backbone = hub().DeepLabV3Backbone(
        image_encoder=resnet([64, 8, 8, 8]),
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P5",
        dilation_rates=[6, 12],
        upsampling_size=8,
        image_shape=(32, 32, 3),
    )
    return hub().DeepLabV3ImageSegmenter(backbone, 3)


def segformer():
    encoder = hub().MiTBackbone(
        layerwise_depths=[2, 2],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        image_shape=(16, 16, 3),
        hidden_dims=[4, 8],
    )
    backbone = hub().SegFormerBackbone(encoder, projection_filters=4)
    return hub().SegFormerImageSegmenter(backbone, num_classes=3)


def retina_net():
    backbone = hub().RetinaNetBackbone(
        image_encoder=resnet([64, 8, 8]),
        min_level=3,
        max_level=4,
        use_p5=False,
        image_shape=(32, 32, 3),
    )
    return hub().RetinaNetObjectDetector(
        backbone, num_classes=2, pre_logits_num_conv_layers=1
    )


def sam():
    parts = pytest.importorskip("keras_hub").layers
    encoder = hub().ViTDetBackbone(
        hidden_size=4,
        num_layers=2,
        intermediate_dim=8,
        num_heads=2,
        global_attention_layer_indices=[1],
        patch_size=8,
        num_output_channels=8,
        window_size=2,
        image_shape=(16, 16, 3),
    )
    prompts = parts.SAMPromptEncoder(
        hidden_size=8,
        image_embedding_size=(2, 2),
        input_image_size=(16, 16),
        mask_in_channels=16,
    )
    decoder = parts.SAMMaskDecoder(
        num_layers=2,
        hidden_size=8,
        intermediate_dim=8,
        num_heads=2,
        embedding_dim=8,
        num_multimask_outputs=3,
        iou_head_depth=2,
        iou_head_hidden_dim=4,
    )
    backbone = hub().SAMBackbone(encoder, prompts, decoder)
    return hub().SAMImageSegmenter(backbone)


TOWER = {
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 4,
    "intermediate_dim": 8,
}


def clip():
    image = {"patch_size": 8, "image_shape": (16, 16, 3)}
    vision = hub().CLIPVisionEncoder(**image, **TOWER)
    text = {"vocabulary_size": 9, "embedding_dim": 4, "max_sequence_length": 5}
    text = hub().CLIPTextEncoder(**text, **TOWER)
    return hub().CLIPBackbone(vision, text, projection_dim=3)


def whisper():
    return hub().WhisperBackbone(
        vocabulary_size=9,
        num_mels=4,
        max_encoder_sequence_length=8,
        max_decoder_sequence_length=5,
        **TOWER,
    )


def moonshine():
    return hub().MoonshineBackbone(
        vocabulary_size=9,
        filter_dim=4,
        encoder_num_layers=2,
        decoder_num_layers=2,
        hidden_dim=4,
        intermediate_dim=4,
        encoder_num_heads=1,
        decoder_num_heads=1,
    )


def vit():
    backbone = hub().ViTBackbone(
        image_shape=(16, 16, 3),
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=4,
        mlp_dim=8,
    )
    return hub().ViTImageClassifier(backbone, num_classes=2)


def dense_net():
    backbone = hub().DenseNetBackbone(
        stackwise_num_repeats=[1, 1, 1],
        image_shape=(32, 32, 3),
        growth_rate=4,
    )
    return hub().DenseNetImageClassifier(backbone, num_classes=2)


# === By hand, most layers without a name ===


def two_convolutions(x, filters):
    for _ in range(2):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return x


def u_net():
    """As in a hundred notebooks."""
    x, skips = keras.Input((16, 16, 3)), []
    inputs = x
    for filters in (2, 4):
        skips.append(two_convolutions(x, filters))
        x = layers.MaxPooling2D()(skips[-1])
    x = two_convolutions(x, 8)
    for filters in (4, 2):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = two_convolutions(layers.Concatenate()([x, skips.pop()]), filters)
    return keras.Model(inputs, layers.Conv2D(3, 1, activation="softmax")(x))


def u_net_of_any_size():
    """It has names where a person gives some, and no size."""
    x = inputs = keras.Input((None, None, 1))
    skips = []
    for i in (1, 2):
        x = layers.Conv2D(2, 3, padding="same", name=f"down{i}_a")(x)
        x = layers.Conv2D(2, 3, padding="same", name=f"down{i}_b")(x)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(2, 3, padding="same", name="bottom_a")(x)
    x = layers.Conv2D(2, 3, padding="same", name="bottom_b")(x)
    for _ in (2, 1):
        x = layers.Concatenate()([layers.UpSampling2D()(x), skips.pop()])
        x = layers.Conv2D(2, 3, padding="same")(x)
    return keras.Model(inputs, layers.Conv2D(1, 3, padding="same")(x))


def xception_u_net():
    """The guide of keras.io on segmentation."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(inputs)
    before = x = layers.ReLU()(layers.BatchNormalization()(x))
    for filters in (4, 6):
        for _ in range(2):
            x = layers.ReLU()(x)
            x = layers.SeparableConv2D(filters, 3, padding="same")(x)
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        short = layers.Conv2D(filters, 1, strides=2, padding="same")(before)
        before = x = layers.add([x, short])
    for filters in (6, 4, 2):
        for _ in range(2):
            x = layers.ReLU()(x)
            x = layers.Conv2DTranspose(filters, 3, padding="same")(x)
            x = layers.BatchNormalization()(x)
        x = layers.UpSampling2D(2)(x)
        short = layers.Conv2D(filters, 1)(layers.UpSampling2D(2)(before))
        before = x = layers.add([x, short])
    return keras.Model(inputs, layers.Conv2D(3, 3, activation="softmax")(x))


def attention(x, name=None):
    return layers.MultiHeadAttention(1, 4, name=name)(x, x)


def tab_transformer():
    """The guide of keras.io on TabTransformer."""
    words = ("job", "city")
    inputs = {name: keras.Input((), name=name) for name in (*words, "age")}
    x = [layers.Embedding(5, 4)(inputs[name]) for name in words]
    x = keras.ops.stack(x, axis=1)
    for i in range(2):
        y = attention(x, f"multihead_attention_{i}")
        x = layers.LayerNormalization(name=f"norm1_{i}")(layers.Add()([y, x]))
        parts = [layers.LayerNormalization(), layers.Dense(8), layers.Dense(4)]
        y = keras.Sequential(parts, name=f"MLP_{i}")(x)
        x = layers.LayerNormalization(name=f"norm2_{i}")(layers.Add()([y, x]))
    x = layers.Flatten()(x)
    age = layers.LayerNormalization()(layers.Reshape((1,))(inputs["age"]))
    x = layers.Concatenate()([x, age])
    parts = [layers.BatchNormalization(), layers.Dense(6), layers.Dense(3)]
    x = keras.Sequential(parts, name="MLP")(x)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))


def vision_transformer():
    """The guide of keras.io on vision transformers."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Reshape((4, 48))(inputs)
    x = layers.Dense(4)(x)
    for _ in range(2):
        x = layers.Add()([attention(layers.LayerNormalization()(x)), x])
        y = layers.Dense(8, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([layers.Dense(4, activation="gelu")(y), x])
    x = layers.Flatten()(layers.LayerNormalization()(x))
    x = layers.Dense(6, activation="gelu")(x)
    return keras.Model(inputs, layers.Dense(2)(x))


BY_HAND = {
    "U-Net": u_net,
    "U-Net of any size": u_net_of_any_size,
    "U-Net of separable convolutions": xception_u_net,
    "TabTransformer": tab_transformer,
    "Vision transformer by hand": vision_transformer,
}
MODELS = {
    "DeepLabV3+": deep_lab,
    "SegFormer": segformer,
    "RetinaNet": retina_net,
    "SAM": sam,
    "CLIP": clip,
    "Whisper": whisper,
    "Moonshine": moonshine,
    "ViT": vit,
    "DenseNet": dense_net,
    **BY_HAND,
}


def assert_as_expected(name, model):
    groups = ft.layer_groups(model)
    found = [group.name for group in groups]
    expected = table()[name]
    print(f"{name}\n  groups: {found}\n  expert: {expected}")
    assert found == expected
    grouped = [id(v) for group in groups.every for v in group.variables]
    assert sorted(grouped) == sorted({id(v) for v in model.weights})
    return groups


@pytest.mark.parametrize("name", MODELS)
def test_groups_are_those_of_an_expert(name):
    groups = assert_as_expected(name, MODELS[name]())
    held = {group.name: [x.name for x in group.layers] for group in groups}
    if name == "DeepLabV3+":
        assert held["head"] == ["segmentation_output"]
        assert "conv_projection" in held["spatial_pyramid_pooling"]
        assert held["decoder"] == [
            "decoder_conv", "decoder_norm",
            "segmentation_head_conv", "segmentation_head_norm",
        ]  # fmt: skip
    if name == "SegFormer":
        decoder = [x.partition("_")[0] for x in held["decoder"]]
        assert decoder == ["linear", "linear", "conv2d", "batch"]
    if name == "CLIP":
        assert held["head"] == [
            "vision_projection", "text_projection", "clip_head",
        ]  # fmt: skip
    if name == "ViT":
        assert held["head"] == ["ln", "predictions"]
    if name == "DenseNet":
        assert held["transition1"] == ["transition1_bn", "transition1_conv"]
    if name == "Vision transformer by hand":
        assert held["head"][0].startswith("layer_normalization")
        assert len(held["head"]) == 3
    if name == "U-Net":
        assert [len(found) for found in held.values()] == [4, 4, 4, 5, 5, 1]


LOAD = """
import json, sys
import keras, finetune_keras as ft
keras.layers.Conv2D(3, 1), keras.layers.Dense(2)
models = [keras.models.load_model(path) for path in sys.argv[1:]]
print(json.dumps([[g.name for g in ft.layer_groups(x)] for x in models]))
"""


def test_names_are_those_of_the_next_process(tmp_path):
    paths = []
    chosen = ["U-Net", "TabTransformer"]
    for i, build in enumerate(map(BY_HAND.get, chosen)):
        # The counters of Keras go on.
        build()
        paths.append(tmp_path / f"{i}.keras")
        build().save(paths[-1])
    process = FreshProcess("-c", LOAD, *paths)
    assert process.wait() == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])
    assert found == [table()[name] for name in chosen]


@pytest.mark.backends
def test_towers_are_in_one_piece_each():
    words = keras.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(9, 4)(words)
    for i in range(2):
        y = layers.Dense(4)(layers.Dense(4, activation="relu")(x))
        x = layers.Add(name=f"words_block_{i}")([x, y])
    x = layers.GlobalAveragePooling1D()(x)
    pixels = keras.Input((8, 8, 1), name="pixels")
    y = layers.Conv2D(4, 3, name="pixels_stem")(pixels)
    for _ in range(2):
        z = layers.Conv2D(4, 1)(layers.Conv2D(4, 1)(y))
        y = layers.Add()([y, z])
    y = layers.GlobalAveragePooling2D()(y)
    x = layers.Dense(2, name="head")(layers.Concatenate()([x, y]))
    model = keras.Model({"words": words, "pixels": pixels}, x)
    groups = ft.layer_groups(model)
    held = [[x.name for x in group.layers] for group in groups]
    assert len(groups) == 7
    first = [names[0].partition("_")[0] for names in held]
    assert first in (
        ["embedding", "dense", "dense", "pixels", "conv2d", "conv2d", "head"],
        ["pixels", "conv2d", "conv2d", "embedding", "dense", "dense", "head"],
    )
    assert held[-1] == ["head"]
    ft.freeze(model)
    ft.unfreeze(model, 2)
    model.compile("sgd", "mse")
    data = {"words": np.ones((2, 6)), "pixels": np.ones((2, 8, 8, 1))}
    before = [np.array(v) for v in model.weights]
    model.train_on_batch(data, np.ones((2, 2)))
    trained = {id(v) for g in groups[-3:] for v in g.variables}
    for old, variable in zip(before, model.weights, strict=True):
        same = np.array_equal(old, keras.ops.convert_to_numpy(variable))
        assert same != (id(variable) in trained)
