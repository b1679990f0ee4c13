"""The guides of keras.io on recommendation and video, with small models.

What a guide does is done here by this library: trained by a plan, judged, and
saved as a bundle that is asked for one prediction. Data are made: people who
like every third film, squares that move to the left or to the right, and
volumes with a bright core or without.

    python benchmarks/guides_inputs.py
"""

import pathlib
import tempfile

import keras
import numpy as np
from keras import layers

import finetune_keras as ft

RNG = np.random.default_rng(0)
PEOPLE, FILMS = 30, 20


# === Data ===


def ratings():
    """Pairs of a person and a film, and whether the person likes it."""
    people = RNG.integers(0, PEOPLE, 2000)
    films = RNG.integers(0, FILMS, 2000)
    x = {"person": people.astype("int32"), "film": films.astype("int32")}
    return x, (people % 3 == films % 3).astype("int32")


def clips(count=160):
    """Squares that move to the left (0) or to the right (1)."""
    y = RNG.integers(0, 2, count)
    x = RNG.normal(0, 0.1, (count, 6, 16, 16, 1)).astype("float32")
    for i, right in enumerate(y):
        row = RNG.integers(0, 12)
        for t in range(6):
            left = 2 * t if right else 12 - 2 * t
            x[i, t, row : row + 4, left : left + 4] += 1
    return x, y


def scans(count=160):
    """Volumes with a bright core (1) or without (0)."""
    y = RNG.integers(0, 2, count)
    x = RNG.normal(0, 0.3, (count, 16, 16, 8, 1)).astype("float32")
    x[y == 1, 5:11, 5:11, 2:6] += 0.6
    return x, y


# === The models of the guides, smaller ===


def collaborative_filtering():
    """`collaborative_filtering_movielens`: vectors, biases, a sigmoid."""
    person = keras.Input((), dtype="int32", name="person")
    film = keras.Input((), dtype="int32", name="film")
    match = layers.Dot(1)(
        [
            layers.Embedding(PEOPLE, 8, name="people")(person),
            layers.Embedding(FILMS, 8, name="films")(film),
        ]
    )
    biases = [
        layers.Embedding(PEOPLE, 1, name="person_bias")(person),
        layers.Embedding(FILMS, 1, name="film_bias")(film),
    ]
    x = layers.Add()([match, *biases])
    x = layers.Activation("sigmoid")(x)
    return keras.Model({"person": person, "film": film}, x)


def video_classification():
    """`video_classification`: features of frames, recurrent layers."""
    x = image = keras.Input((16, 16, 1))
    for i in (1, 2):
        x = layers.Conv2D(8, 3, activation="relu", name=f"block{i}_conv")(x)
        x = layers.MaxPooling2D()(x)
    backbone = keras.Model(image, layers.Flatten()(x), name="features")
    frames = keras.Input((6, 16, 16, 1))
    x = layers.TimeDistributed(backbone)(frames)
    x = layers.GRU(16, return_sequences=True)(x)
    x = layers.Dropout(0.2)(layers.GRU(8)(x))
    return keras.Model(frames, layers.Dense(2, activation="softmax")(x))


def volumes():
    """`3D_image_classification`: 3D convolutions of CT scans."""
    x = inputs = keras.Input((16, 16, 8, 1))
    for filters in (8, 16):
        x = layers.Conv3D(filters, 3, padding="same", activation="relu")(x)
        x = layers.BatchNormalization()(layers.MaxPooling3D(2)(x))
    x = layers.GlobalAveragePooling3D()(x)
    x = layers.Dropout(0.2)(layers.Dense(16, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))


GUIDES = {
    "Collaborative filtering": (collaborative_filtering, ratings, 0.03),
    "Video classification": (video_classification, clips, 0.01),
    "3D images from CT scans": (volumes, scans, 0.01),
}


def rows_of(data, rows):
    return keras.tree.map_structure(lambda array: array[rows], data)


def main():
    print(f"{'guide':<26}{'groups':<40}{'accuracy':>9}  one prediction")
    for name, (build, make, rate) in GUIDES.items():
        keras.utils.set_random_seed(0)
        model, data = build(), make()
        count = len(data[1]) * 3 // 4
        train = rows_of(data, slice(count))
        test = rows_of(data, slice(count, None))
        phase = ft.Phase("all", epochs=12, learning_rate=rate)
        ft.fine_tune(model, ft.Plan([phase]), train, verbose=0)
        report = ft.evaluate(model, test, ["no", "yes"], verbose=0)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.keras"
            ft.save_bundle(model, path, classes=["no", "yes"])
            one = ft.load_bundle(path).predict(rows_of(test[0], slice(1)))
        groups = ", ".join(group.name for group in ft.layer_groups(model))
        accuracy = report.metrics["accuracy"]
        print(f"{name:<26}{groups:<40}{accuracy:>9.3f}  {one.labels}")


if __name__ == "__main__":
    main()
