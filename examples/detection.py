"""Boxes in pictures: a detector for other classes, judged and bundled.

The folder holds the pictures in `images`, and `annotations.json` of COCO or a
folder `annotations` of Pascal VOC or YOLO files. `--detector` is a folder or
preset of a KerasHub RetinaNet, whose heads get the classes of the data.
Without a folder, pictures of squares and discs are made, for a RetinaNet with
a tiny backbone and random weights.

    python examples/detection.py
    python examples/detection.py --data photos --detector retinanet_folder
"""

import argparse
import pathlib
import tempfile

import keras
import keras_hub
import numpy as np
from PIL import Image, ImageDraw

import finetune_keras as ft


def make_shapes(folder, count, side=64):
    """Draws one to three squares and discs a picture; writes YOLO files."""
    for name in ("images", "annotations"):
        (folder / name).mkdir()
    names = folder / "annotations" / "classes.txt"
    names.write_text("square\ndisc\n")
    for i in range(count):
        rng = np.random.default_rng(i)
        noise = rng.integers(0, 90, (side, side, 3)).astype("uint8")
        image, lines = Image.fromarray(noise), []
        pen = ImageDraw.Draw(image)
        for _ in range(rng.integers(1, 4)):
            size = int(rng.integers(16, 30))
            left, top = map(int, rng.integers(0, side - size, 2))
            kind = int(rng.integers(2))
            draw = pen.ellipse if kind else pen.rectangle
            colour = tuple(map(int, rng.integers(130, 256, 3)))
            draw([left, top, left + size - 1, top + size - 1], fill=colour)
            middle = (left + size / 2) / side, (top + size / 2) / side
            lines.append(f"{kind} {middle[0]} {middle[1]} {size / side} ")
            lines[-1] += str(size / side)
        image.save(folder / "images" / f"{i}.png")
        (folder / "annotations" / f"{i}.txt").write_text("\n".join(lines))


def tiny_detector(side):
    """A RetinaNet for five classes that has learnt nothing yet."""
    shape = side, side, 3
    encoder = keras_hub.models.DenseNetBackbone(
        stackwise_num_repeats=[1, 2, 2],
        compression_ratio=0.5,
        growth_rate=16,
        image_shape=shape,
    )
    backbone = keras_hub.models.RetinaNetBackbone(
        encoder, min_level=3, max_level=4, use_p5=False, image_shape=shape
    )
    anchors = keras_hub.layers.AnchorGenerator(
        "yxyx", 3, 4, num_scales=2, aspect_ratios=[1.0], anchor_size=2.0
    )
    converter = keras_hub.layers.RetinaNetImageConverter(
        image_size=(side, side), scale=1 / 255, bounding_box_format="yxyx"
    )
    return keras_hub.models.RetinaNetObjectDetector(
        backbone,
        num_classes=5,
        anchor_generator=anchors,
        pre_logits_num_conv_layers=1,
        preprocessor=keras_hub.models.RetinaNetObjectDetectorPreprocessor(
            converter
        ),
    )


def find(folder):
    """The file or folder that marks the boxes."""
    coco = folder / "annotations.json"
    return coco if coco.exists() else folder / "annotations"


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--detector", help="a preset of KerasHub")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--pictures", type=int, default=240, help="made ones")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--augmentation", help="light, medium or strong")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="detector.keras")
    return parser.parse_args()


def main():
    arguments = parse()
    keras.utils.set_random_seed(arguments.seed)
    folder = arguments.data
    if folder is None:
        folder = pathlib.Path(tempfile.mkdtemp())
        make_shapes(folder, arguments.pictures)
    if arguments.detector is None:
        size = arguments.image_size or 64
        detector = tiny_detector(size)
    else:
        preset = keras_hub.models.ObjectDetector.from_preset
        detector = preset(arguments.detector)
        size = arguments.image_size or 512
    data = ft.box_folder(
        folder / "images",
        find(folder),
        image_size=size,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        bounding_box_format=detector.bounding_box_format,
        augmentation=arguments.augmentation,
        verbose=0,
    )
    print(data)
    model = ft.replace_head(detector, len(data.classes))
    plan = ft.plans.full(
        epochs=arguments.epochs, learning_rate=arguments.learning_rate
    )
    history = ft.fine_tune(model, plan, data.train, data.validation, verbose=2)
    path = pathlib.Path(ft.save_bundle(model, arguments.output, data))
    bundle = ft.load_bundle(path)
    report = ft.evaluate(bundle.model, data.test, data.classes, verbose=0)
    print(report)
    report.to_html(path.parent / "report.html", history=history, data=data)
    print(bundle.predict(list(data.columns["test"]["path"][:3])))
    print(f"mAP 50 on the test pictures: {report.metrics['map_50'] or 0:.3f}")


if __name__ == "__main__":
    main()
