"""Classifies any folder of photos with a pretrained backbone.

The folder holds `train/CLASS` and `test/CLASS`, or just `CLASS`, of which a
fifth of each class is then held out for the test. The backbone is frozen and
a new head trained, the sturdy choice for some hundred photos. The model is
saved, loaded again by plain Keras, and judged on the test photos.

    python examples/image_classification.py --data photos
"""

import argparse
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
from sklearn.model_selection import train_test_split

import finetune_keras as ft

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


def list_photos(folder):
    """Returns the names of the classes, the paths and their labels."""
    names = sorted(x.name for x in folder.iterdir() if x.is_dir())
    photos = [
        (str(path), label)
        for label, name in enumerate(names)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if len(names) < 2 or not photos:
        raise SystemExit(f"{folder} must hold a folder of photos a class.")
    return names, *map(list, zip(*photos, strict=True))


def load_splits(folder, seed):
    """Returns the names, then paths and labels for training and for test."""
    if not (folder / "train").is_dir():
        names, paths, labels = list_photos(folder)
        parts = train_test_split(
            paths, labels, test_size=0.2, stratify=labels, random_state=seed
        )
        train_paths, test_paths, train_labels, test_labels = parts
        return names, (train_paths, train_labels), (test_paths, test_labels)
    names, *train = list_photos(folder / "train")
    test_names, *test = list_photos(folder / "test")
    if names != test_names:
        raise SystemExit(f"Classes differ: {names} and {test_names}.")
    return names, train, test


def make_dataset(paths, labels, size, batch_size, shuffle=False):
    """Batches of raw pixels, cut to a square in the middle, not squashed."""
    resize = keras.layers.Resizing(size, size, crop_to_aspect_ratio=True)

    def read(path, label):
        image = tf.io.decode_image(
            tf.io.read_file(path), channels=3, expand_animations=False
        )
        image.set_shape((None, None, 3))
        return resize(image), label

    dataset = tf.data.Dataset.from_tensor_slices((paths, labels))
    if shuffle:
        dataset = dataset.shuffle(len(paths))
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def build(arguments, num_classes):
    options = {} if arguments.alpha is None else {"alpha": arguments.alpha}
    weights = None if arguments.weights == "none" else arguments.weights
    size = arguments.image_size
    backbone = ft.backbone(
        arguments.backbone,
        input_shape=(size, size, 3),
        weights=weights,
        **options,
    )
    model = ft.image_classifier(
        backbone,
        num_classes,
        hidden_units=arguments.hidden_units,
        dropout=arguments.dropout,
    )
    ft.freeze(model, "backbone")
    return model


def train(model, dataset, arguments):
    model.compile(
        keras.optimizers.Adam(arguments.learning_rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    start = time.time()
    model.fit(dataset, epochs=arguments.epochs, verbose=2)
    print(f"Training took {time.time() - start:.1f} s.")


def judge(file, dataset, labels, names):
    """Loads the model as anybody would and prints what it gets right."""
    model = keras.models.load_model(file)
    predicted = model.predict(dataset, verbose=0).argmax(axis=-1)
    labels = np.array(labels)
    for label, name in enumerate(names):
        found = np.mean(predicted[labels == label] == label)
        print(f"  {name}: {found:.3f} of {np.sum(labels == label)}")
    print(f"Test accuracy: {np.mean(predicted == labels):.3f}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--backbone", default="MobileNetV2")
    parser.add_argument(
        "--weights", default="imagenet", help='"imagenet", a file, or "none"'
    )
    parser.add_argument("--alpha", type=float, help="width of a MobileNet")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--hidden-units", type=int, nargs="*", default=())
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="photos.keras")
    return parser.parse_args()


def main():
    arguments = parse()
    keras.utils.set_random_seed(arguments.seed)
    names, (paths, labels), test = load_splits(arguments.data, arguments.seed)
    test_paths, test_labels = test
    size, batch_size = arguments.image_size, arguments.batch_size
    model = build(arguments, len(names))
    print(ft.trainable_summary(model, "adam"))
    train(
        model,
        make_dataset(paths, labels, size, batch_size, shuffle=True),
        arguments,
    )
    model.save(arguments.output)
    print(f"Saved as {arguments.output}; loaded again, on the test photos:")
    dataset = make_dataset(test_paths, test_labels, size, batch_size)
    judge(arguments.output, dataset, test_labels, names)


if __name__ == "__main__":
    main()
