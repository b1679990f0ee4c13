"""The guides of keras.io on object detection, with a small random model each.

What a guide does is done here by this library: boxes read from Pascal VOC
files, the number of classes changed, trained by a plan, judged, and saved as
a bundle that is asked by file names. Pictures of squares and discs are made.

    python benchmarks/guides_boxes.py
"""

import pathlib
import runpy
import tempfile
import warnings

import keras
import numpy as np
from keras import layers
from PIL import Image

import finetune_keras as ft

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "detection.py"
SIDE, PICTURES = 64, 240


def write_voc(folder):
    """Turns the YOLO files of the example into VOC files."""
    names = ["square", "disc"]
    (folder / "voc").mkdir()
    for path in (folder / "annotations").glob("[0-9]*.txt"):
        objects = []
        for line in path.read_text().splitlines():
            place, x, y, width, height = map(float, line.split())
            ends = x - width / 2, y - height / 2, x + width / 2, y + height / 2
            sides = zip(("xmin", "ymin", "xmax", "ymax"), ends, strict=True)
            box = "".join(f"<{k}>{round(v * SIDE)}</{k}>" for k, v in sides)
            name = names[int(place)]
            objects.append(
                f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"
            )
        (folder / "voc" / f"{path.stem}.xml").write_text(
            f"<annotation><filename>{path.stem}.png</filename>"
            f"{''.join(objects)}</annotation>"
        )


def retinanet(folder, detector):
    """`object_detection_retinanet`: KerasHub's, on VOC, with a random flip."""
    flip = keras.layers.RandomFlip(bounding_box_format="yxyx")
    data = ft.box_folder(
        folder / "images",
        folder / "voc",
        image_size=SIDE,
        augmentation=ft.Augmentation([flip]),
        verbose=0,
    )
    model = ft.replace_head(detector, len(data.classes))
    plan = ft.plans.full(epochs=30, learning_rate=1e-3)
    ft.fine_tune(model, plan, data.train, data.validation, verbose=0)
    report = ft.evaluate(model, data.test, verbose=0)
    path = ft.save_bundle(model, folder / "retinanet.keras", data)
    found = ft.load_bundle(path).predict(list(data.columns["test"]["path"]))
    first = zip(found.labels[0], found.boxes[0].round().tolist(), strict=True)
    return f"mAP 50 {report.metrics['map_50']:.2f}", str(list(first)[:2])


def transformer(folder, detector):
    """`object_detection_using_vision_transformer`: one box, four numbers."""
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for i in range(PICTURES):
        low, size = rng.integers(0, SIDE - 30, 2), rng.integers(16, 30, 2)
        pixels = rng.integers(0, 90, (SIDE, SIDE, 3)).astype("uint8")
        pixels[low[1] : low[1] + size[1], low[0] : low[0] + size[0]] = 220
        Image.fromarray(pixels).save(folder / f"one{i}.png")
        images.append(pixels)
        boxes.append(np.concatenate([low, low + size]) / SIDE)
    data = ft.from_arrays(
        np.array(images), np.array(boxes, "float32"), task="regression"
    )
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Reshape((64, 32))(layers.Conv2D(32, 8, strides=8)(x))
    places = layers.Embedding(64, 32)(keras.ops.arange(64))
    x = x + places
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(2, 16)(y, y)
        y = layers.Dense(64, "gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(32)(y)
    model = ft.replace_head(
        keras.Model(inputs, x),
        4,
        pooling="flatten",
        hidden_units=(64,),
        task="regression",
    )
    plan = ft.plans.full(epochs=15, learning_rate=1e-3)
    ft.fine_tune(model, plan, data.train, data.validation, verbose=0)
    report = ft.evaluate(model, data.test, verbose=0)
    path = ft.save_bundle(model, folder / "transformer.keras", data)
    found = ft.load_bundle(path).predict([str(folder / "one0.png")])
    sides = (SIDE * np.array(found.labels[0])).round().astype(int).tolist()
    return f"RMSE {SIDE * report.metrics['rmse']:.1f} pixels", str(sides)


def main():
    warnings.simplefilter("ignore")
    example = runpy.run_path(str(EXAMPLE))
    print("| guide | judged | what the bundle says of a file |")
    print("|---|---|---|")
    for guide in (retinanet, transformer):
        keras.utils.set_random_seed(0)
        folder = pathlib.Path(tempfile.mkdtemp())
        example["make_shapes"](folder, PICTURES, SIDE)
        write_voc(folder)
        judged, said = guide(folder, example["tiny_detector"](SIDE))
        name = guide.__doc__.split("`")[1]
        print(f"| `{name}` | {judged} | {said} |", flush=True)


if __name__ == "__main__":
    main()
