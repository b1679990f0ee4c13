"""The classic: VGG16 with its top layers unfrozen, on a folder of photos.

All but the last four layers are frozen; flatten, 256, 128 and softmax follow;
training photos are rotated by up to 20 degrees, zoomed by up to 15 % and
flipped; Adam at 1e-4. The augmentation is part of the data, not of the model:
what is saved never augments.

    python examples/vgg16_top_layers.py --data photos

The folder holds `train/CLASS` and `test/CLASS`.
"""

import argparse
import pathlib

import keras

import finetune_keras as ft


def load(folder, size, batch_size):
    """Returns the training set, augmented, the test set and the names."""
    train, test = (
        keras.utils.image_dataset_from_directory(
            folder / part,
            image_size=(size, size),
            batch_size=batch_size,
            shuffle=part == "train",
            seed=0,
        )
        for part in ("train", "test")
    )
    augmentation = keras.layers.Pipeline(
        [
            keras.layers.RandomRotation(20 / 360),
            keras.layers.RandomZoom(0.15),
            keras.layers.RandomFlip("horizontal"),
        ]
    )
    augmented = train.map(lambda x, y: (augmentation(x, training=True), y))
    return augmented.prefetch(2), test.prefetch(2), train.class_names


def build(name, weights, size, num_classes):
    backbone = ft.backbone(name, input_shape=(size, size, 3), weights=weights)
    model = ft.image_classifier(
        backbone, num_classes, pooling="flatten", hidden_units=(256, 128)
    )
    ft.freeze(model, backbone.layers[:-4])
    model.compile(
        keras.optimizers.Adam(1e-4),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--backbone", default="VGG16")
    parser.add_argument(
        "--weights", default="imagenet", help='"imagenet", a file, or "none"'
    )
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", default="vgg16.keras")
    arguments = parser.parse_args()
    if arguments.data is None:
        print(__doc__)
        return
    keras.utils.set_random_seed(0)
    size = arguments.image_size
    train, test, names = load(arguments.data, size, arguments.batch_size)
    weights = None if arguments.weights == "none" else arguments.weights
    model = build(arguments.backbone, weights, size, len(names))
    print(ft.trainable_summary(model))
    model.fit(train, epochs=arguments.epochs, verbose=2)
    model.save(arguments.output)
    loaded = keras.models.load_model(arguments.output)
    print(f"Test accuracy: {loaded.evaluate(test, verbose=0)[1]:.3f}")


if __name__ == "__main__":
    main()
