"""The best result for the data at hand: by hand, by plans, by one call.

For each folder, weights and seed, the test accuracy and the seconds from
building the model to its last weights, of

- `recipe`: all but the last four layers frozen; flatten, 256, 128 and softmax;
  Adam at 1e-4, 10 epochs of photos that are rotated, zoomed and flipped;
- `probe`: logistic regression of scikit-learn, the strength by
  cross-validation, on the standardised means of the last features;
- `plan`: `ft.plans.linear_probe_then_full()`, at its defaults;
- `advise`: `ft.advise`, and its plan on its model;
- `best`: `ft.best_model` within `--minutes`, with this one backbone;
- `both`: the same with the backbones of all `--weights`.

The first three see the photos in their own 160 pixels, the others in the 224
of the weights. All choose by the same validation photos.

    python benchmarks/best_result.py --data FOLDER ... --mobilenet FILE \
        --mobilenet-v2 FILE --seeds 3 --ways recipe probe plan advise best

Each FOLDER holds train/CLASS/*.jpg and test/CLASS/*.jpg; the FILEs are those
of MobileNet 0.25 and of MobileNetV2 0.35 without the top. Prints one table of
means over the seeds, and one over all.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import finetune_keras as ft
from finetune_keras.data.table import format_table

SMALL, FULL = 160, 224
ALPHAS = {"MobileNet": 0.25, "MobileNetV2": 0.35}


def make_backbone(name, weights, size):
    return ft.backbone(
        name,
        input_shape=(size, size, 3),
        weights=weights[name],
        alpha=ALPHAS[name],
    )


def by_recipe(name, weights, data, seed, minutes):
    backbone = make_backbone(name, weights, SMALL)
    model = ft.image_classifier(
        backbone, data.classes, pooling="flatten", hidden_units=(256, 128)
    )
    ft.freeze(model, backbone.layers[:-4])
    model.compile(
        keras.optimizers.Adam(1e-4),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    augmentation = keras.layers.Pipeline(
        [
            keras.layers.RandomRotation(20 / 360),
            keras.layers.RandomZoom(0.15),
            keras.layers.RandomFlip("horizontal"),
        ]
    )
    train = data.train.map(lambda x, y: (augmentation(x, training=True), y))
    model.fit(train.prefetch(2), epochs=10, verbose=0, shuffle=False)
    return model


def by_probe(name, weights, data, seed, minutes):
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = ft.image_classifier(
        make_backbone(name, weights, SMALL), data.classes
    )
    reader = keras.Model(model.input, model.layers[-1].input)
    x, y = data.arrays("train")
    probe = make_pipeline(
        StandardScaler(),
        LogisticRegressionCV(
            Cs=np.logspace(-4, 1, 11), scoring="neg_log_loss", max_iter=1000
        ),
    )
    probe.fit(reader.predict(x, verbose=0), y)
    return lambda x: probe.predict_proba(reader.predict(x, verbose=0))


def by_plan(name, weights, data, seed, minutes):
    model = ft.image_classifier(
        make_backbone(name, weights, SMALL), data.classes
    )
    plan = ft.plans.linear_probe_then_full()
    ft.fine_tune(model, plan, data.train, data.validation, verbose=0)
    return model


def by_advice(name, weights, data, seed, minutes):
    backbone = make_backbone(name, weights, FULL)
    advice = ft.advise(backbone, data, seed=seed, verbose=0)
    model = advice.model()
    ft.fine_tune(model, advice.plan, data.train, data.validation, verbose=0)
    return model


def by_best(name, weights, data, seed, minutes):
    backbone = make_backbone(name, weights, FULL)
    best = ft.best_model(data, {name: backbone}, minutes, seed, verbose=0)
    print(best, flush=True)
    return best.model


def by_both(name, weights, data, seed, minutes):
    named = {x: make_backbone(x, weights, FULL) for x in weights}
    best = ft.best_model(data, named, minutes, seed, verbose=0)
    print(best, flush=True)
    return best.model


WAYS = {
    "recipe": by_recipe,
    "probe": by_probe,
    "plan": by_plan,
    "advise": by_advice,
    "best": by_best,
    "both": by_both,
}


def measure(way, name, weights, folder, seed, minutes):
    """Test accuracy and seconds."""
    keras.utils.set_random_seed(seed)
    data = ft.image_folder(folder, image_size=SMALL, seed=seed)
    begun = time.perf_counter()
    model = WAYS[way](name, weights, data, seed, minutes)
    seconds = time.perf_counter() - begun
    x, y = data.arrays("test")
    predict = getattr(model, "predict_on_batch", model)
    parts = [predict(x[i : i + 32]) for i in range(0, len(x), 32)]
    right = np.concatenate(parts).argmax(axis=1) == y
    return right.mean(), seconds


def cells(found):
    accuracy, seconds = np.mean(found, axis=0)
    return f"{accuracy:.3f} {seconds:4.0f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--mobilenet")
    parser.add_argument("--mobilenet-v2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=list(WAYS)[:-1]
    )
    told = parser.parse_args()
    weights = {"MobileNet": told.mobilenet, "MobileNetV2": told.mobilenet_v2}
    weights = {name: file for name, file in weights.items() if file}
    rows, every = [], {way: [] for way in told.ways}
    for folder in told.data:
        for name in weights:
            row = [f"{folder.name}, {name}"]
            for way in told.ways:
                found = [
                    measure(way, name, weights, folder, seed, told.minutes)
                    for seed in range(told.seeds)
                ]
                print(folder.name, name, way, cells(found), flush=True)
                every[way] += found
                row.append(cells(found))
            rows.append(row)
    rows.append(["mean", *(cells(found) for found in every.values())])
    print(format_table(["data", *told.ways], rows))


if __name__ == "__main__":
    main()
