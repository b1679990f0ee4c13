"""The guides of keras.io on segmentation, with a small random model in each.

What a guide does is done here by this library: masks read from files, the
number of classes changed, trained by a plan, judged, and saved as a bundle
that is asked by file names. Pets are made: discs with an edge of their own, as
the trimaps of the Oxford pets are (1 pet, 2 background, 3 edge), or masks of 0
and 255.

    python benchmarks/guides_masks.py
"""

import contextlib
import io
import pathlib
import tempfile

import keras
import keras_hub
import numpy as np
from keras import layers
from PIL import Image

import finetune_keras as ft

SIZE, COUNT = 32, 48


def make_pets(folder):
    rows, columns = np.mgrid[: SIZE + 8, : SIZE + 4]
    for name in ("images", "trimaps", "silhouettes"):
        (folder / name).mkdir()
    for i in range(COUNT):
        rng = np.random.default_rng(i)
        radius = rng.uniform(6, 11)
        y, x = rng.uniform(11, SIZE - 7, 2)
        distance = np.hypot(rows - y, columns - x)
        trimap = np.where(distance < radius, 1, 2)
        trimap[abs(distance - radius) < 1.5] = 3
        tint = np.array([[0, 0, 0], [90, 40, 0], [0, 20, 60], [50, 50, 50]])
        pixels = rng.normal(80, 15, (*trimap.shape, 3)) + tint[trimap]
        pixels = Image.fromarray(pixels.clip(0, 255).astype("uint8"))
        pixels.save(folder / f"images/{i}.jpg", quality=95)
        trimap, pet = trimap.astype("uint8"), np.uint8(trimap != 2) * 255
        Image.fromarray(trimap).save(folder / f"trimaps/{i}.png")
        Image.fromarray(pet).save(folder / f"silhouettes/{i}.png")


# === The models of the guides, smaller ===


def unet():
    """`oxford_pets_image_segmentation`: residual blocks, 3x3 softmax."""
    x = inputs = keras.Input((SIZE, SIZE, 3))
    x = before = entry(layers.Rescaling(1 / 255)(x), 8)
    for filters in (16, 24):
        for _ in range(2):
            x = layers.Activation("relu")(x)
            x = layers.SeparableConv2D(filters, 3, padding="same")(x)
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        residual = layers.Conv2D(filters, 1, strides=2)(before)
        x = before = layers.add([x, residual])
    for filters in (24, 16, 8):
        for _ in range(2):
            x = layers.Activation("relu")(x)
            x = layers.Conv2DTranspose(filters, 3, padding="same")(x)
            x = layers.BatchNormalization()(x)
        x = layers.UpSampling2D(2)(x)
        residual = layers.Conv2D(filters, 1)(layers.UpSampling2D(2)(before))
        x = before = layers.add([x, residual])
    x = layers.Conv2D(5, 3, activation="softmax", padding="same")(x)
    return keras.Model(inputs, x)


def entry(x, filters):
    x = layers.Conv2D(filters, 3, strides=2, padding="same")(x)
    return layers.Activation("relu")(layers.BatchNormalization()(x))


def deeplab():
    """`deeplabv3_plus`: dilated pooling beside low features, logits."""
    inputs = keras.Input((SIZE, SIZE, 3))
    low = entry(layers.Rescaling(1 / 255)(inputs), 12)
    x = entry(low, 24)
    rates = [
        layers.Conv2D(12, 3, dilation_rate=rate, padding="same")(x)
        for rate in (1, 2)
    ]
    x = layers.Concatenate()(rates)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.Concatenate()([x, layers.Conv2D(6, 1)(low)])
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    return keras.Model(inputs, layers.Conv2D(20, 1)(x))


def hub_deeplab():
    """`semantic_segmentation_deeplab_v3`: KerasHub's, with a preprocessor."""
    models, shape = keras_hub.models, (SIZE, SIZE, 3)
    encoder = models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 24],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=shape,
    )
    backbone = models.DeepLabV3Backbone(
        encoder,
        spatial_pyramid_pooling_key="P3",
        low_level_feature_key="P2",
        upsampling_size=2,
        dilation_rates=[2],
        projection_filters=16,
        image_shape=shape,
    )
    converter = keras_hub.layers.ImageConverter(
        image_size=(SIZE, SIZE), scale=1 / 127.5, offset=-1.0
    )
    preprocessor = models.DeepLabV3ImageSegmenterPreprocessor(converter)
    return models.DeepLabV3ImageSegmenter(
        backbone, num_classes=21, preprocessor=preprocessor
    )


def hub_segformer():
    """`segformer`: KerasHub's for that of another library."""
    models, shape = keras_hub.models, (SIZE, SIZE, 3)
    encoder = models.MiTBackbone(
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        hidden_dims=[16, 32],
        image_shape=shape,
    )
    backbone = models.SegFormerBackbone(encoder, projection_filters=32)
    return models.SegFormerImageSegmenter(backbone, num_classes=150)


def basnet():
    """`basnet_segmentation`: a mask and one refined, each of one sigmoid."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = low = entry(layers.Rescaling(1 / 255)(inputs), 12)
    x = layers.UpSampling2D(2)(entry(x, 24))
    x = layers.UpSampling2D(2)(layers.Concatenate()([x, low]))
    first = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)
    x = layers.Concatenate()([x, first])
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    refined = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)
    whole = keras.Model(inputs, [refined, first])
    # The one that counts.
    return keras.Model(whole.inputs, whole.outputs[0])


GUIDES = {
    "oxford_pets_image_segmentation": (unet, 3),
    "deeplabv3_plus": (deeplab, 3),
    "semantic_segmentation_deeplab_v3": (hub_deeplab, 3),
    "segformer": (hub_segformer, 3),
    "basnet_segmentation": (basnet, 1),
}
TRIMAPS = {"pet": 1, "background": 2, "edge": 3}


def follow(name, folder):
    """One guide: the row of the table."""
    make, outputs = GUIDES[name]
    keras.utils.set_random_seed(0)
    data = ft.mask_folder(
        folder / "images",
        folder / ("silhouettes" if outputs == 1 else "trimaps"),
        SIZE,
        classes=["background", "pet"] if outputs == 1 else TRIMAPS,
        batch_size=8,
        verbose=0,
    )
    old = make()
    model = ft.replace_head(old, outputs)
    kept = {id(v) for v in old.weights} & {id(v) for v in model.weights}
    plan = ft.plans.linear_probe_then_full(
        1, 15, head_learning_rate=3e-3, learning_rate=3e-3
    )
    ft.fine_tune(model, plan, data.train, data.validation, verbose=0)
    report = ft.evaluate(model, data.test, classes=data.classes, verbose=0)
    path = ft.save_bundle(model, folder / f"{name}.keras", data)
    files = list(data.columns["test"]["path"])
    found = ft.load_bundle(path).predict(files)
    size = found.labels[0].shape
    return (
        f"| `{name}` | {len(kept)} of {len(model.weights)} "
        f"| {report.metrics['mean_iou']:.2f} | {size[0]} x {size[1]} |"
    )


def main():
    print("| guide | weights kept | mean IoU | masks of the bundle |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        make_pets(folder)
        for name in GUIDES:
            with contextlib.redirect_stdout(io.StringIO()):
                row = follow(name, folder)
            print(row, flush=True)


if __name__ == "__main__":
    main()
