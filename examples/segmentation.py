"""From images and masks to a bundle that gives masks.

Without `--data` it makes some: bright squares and dark discs on noise, of 3
classes. A small U-Net, made for 5 classes, gets as many as the masks have; a
plan trains its last layer, then all of it, on images that are moved together
with their masks. The loaded bundle is judged on the test images and gives the
mask of a large picture, window by window.

    python examples/segmentation.py --data cells  # of cells/images, cells/masks
"""

import argparse
import pathlib

import keras
import numpy as np
from PIL import Image

import finetune_keras as ft


def make_shapes(folder, count, size):
    """Writes images and their masks: 0 background, 1 squares, 2 discs."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image, mask = draw(np.random.default_rng(i), size, size)
        Image.fromarray(image).save(folder / "images" / f"{i:03}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{i:03}.png")
    return folder


def draw(rng, size, shapes_in):
    """An image with two shapes on each square of `shapes_in` pixels."""
    rows, columns = np.mgrid[:size, :size]
    image = rng.normal(90, 25, (size, size, 3))
    mask = np.zeros((size, size), "uint8")
    for i in range(2 * (size // shapes_in) ** 2):
        radius = rng.uniform(0.1, 0.22) * shapes_in
        y, x = rng.uniform(radius, size - radius, 2)
        sides = abs(rows - y), abs(columns - x)
        inside = np.maximum(*sides) if i % 2 else np.hypot(*sides)
        image[inside < radius] += rng.uniform(20, 80, 3) * (1 if i % 2 else -1)
        mask[inside < radius] = 1 if i % 2 else 2
    return image.clip(0, 255).astype("uint8"), mask


def make_unet(size, classes, width):
    """A small U-Net on raw pixels; yours is pretrained."""

    def block(x, filters):
        for _ in range(2):
            x = keras.layers.Conv2D(
                filters,
                3,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
            )(x)
        return x

    inputs = keras.Input((size, size, 3))
    x = block(keras.layers.Rescaling(1 / 255)(inputs), width)
    skips = []
    for i in (2, 4):
        skips.append(x)
        x = block(keras.layers.MaxPooling2D()(x), i * width)
    for i in (2, 1):
        x = keras.layers.UpSampling2D(interpolation="bilinear")(x)
        x = keras.layers.Concatenate()([x, skips.pop()])
        x = block(x, i * width)
    x = keras.layers.Conv2D(classes, 1, activation="softmax", name="head")(x)
    return keras.Model(inputs, x, name="unet")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--ignore-class", type=int)
    parser.add_argument("--count", type=int, default=160, help="images to make")
    parser.add_argument("--model", help="a .keras file in place of the U-Net")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default="segmentation")
    return parser.parse_args()


def main():
    arguments = parse()
    keras.utils.set_random_seed(arguments.seed)
    size, output = arguments.image_size, arguments.output
    output.mkdir(parents=True, exist_ok=True)
    folder = arguments.data or make_shapes(output, arguments.count, size)
    data = ft.mask_folder(
        folder / "images",
        folder / "masks",
        size,
        classes=None if arguments.data else ["background", "square", "disc"],
        ignore_class=arguments.ignore_class,
        augmentation="light",
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )
    print(data)
    if arguments.model:
        model = keras.models.load_model(arguments.model)
    else:
        model = make_unet(size, 5, arguments.width)
    model = ft.replace_head(model, len(data.classes))
    # All layers are new: yours would take a tenth of the second rate.
    plan = ft.plans.linear_probe_then_full(
        1, arguments.epochs, head_learning_rate=3e-3, learning_rate=3e-3
    )
    history = ft.fine_tune(model, plan, data.train, data.validation, verbose=2)
    model = ft.calibrate(model, data.validation)
    ft.save_bundle(model, output / "masks.keras", data, plan=plan)
    bundle = ft.load_bundle(output / "masks.keras")
    report = ft.evaluate(bundle.model, data.test, classes=data.classes)
    print(report)
    report.to_html(output / "report.html", history=history, data=data)
    large, _ = draw(np.random.default_rng(-1 % 2**32), 3 * size, size)
    found = bundle.predict(large, overlap=0.5)
    print(found)
    Image.fromarray(found.overlay(0)).save(output / "large.png")
    print(f"Test mean IoU: {report.metrics['mean_iou']:.3f}")


if __name__ == "__main__":
    main()
