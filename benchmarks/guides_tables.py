"""The guides of keras.io on tables and series, with small random models.

What a guide does is done here by this library, on made data: read, given a
head, trained, judged, and saved as a bundle that is asked by raw rows, or by
the steps of a series.

    python benchmarks/guides_tables.py
"""

import contextlib
import tempfile

import keras
import numpy as np
from keras import layers

import finetune_keras as ft

COUNT = 400


def make_patients():
    """Numbers, categories and gaps that tell who is ill."""
    rng = np.random.default_rng(0)
    age, rest = rng.uniform(25, 80, COUNT), rng.normal(120, 15, COUNT)
    pain = rng.choice(["typical", "atypical", "none"], COUNT)
    thal = rng.choice(["normal", "fixed", "reversible"], COUNT)
    score = (age - 50) / 20 + (pain == "typical") * 1.5
    score += (rest - 120) / 15 + (thal == "fixed") * 1.5 - 1
    frame = {"age": age, "rest": rest, "pain": pain, "thal": thal}
    frame = {name: column.astype(object) for name, column in frame.items()}
    for column in frame.values():
        column[rng.random(COUNT) < 0.03] = None
    frame["ill"] = np.where(score > 0, "yes", "no")
    return frame


FEATURES = ["age", "rest", "pain", "thal"]


def feature_space(data):
    """Structured data classification with FeatureSpace."""
    space = data.feature_space()
    x = layers.Dense(32, "relu", name="dense")(space.get_encoded_features())
    return keras.Model(space.get_inputs(), layers.Dropout(0.2)(x))


def tab_transformer(data):
    """TabTransformer: attention over the embeddings of categories."""
    space = data.feature_space()
    inputs, codes, numbers = space.get_inputs(), [], []
    for name, kind in data.kinds.items():
        encoding = space.preprocessors[name]
        if kind == "number":
            numbers.append(encoding(inputs[name]))
            continue
        place = layers.StringLookup(vocabulary=encoding.vocabulary)
        embedding = layers.Embedding(
            place.vocabulary_size(), 8, name=f"{name}_embedding"
        )
        codes.append(embedding(place(inputs[name])))
    x = layers.Concatenate(axis=1, name="categories")(codes)
    for i in range(2):
        y = layers.MultiHeadAttention(2, 4, name=f"attention_{i}")(x, x)
        x = layers.LayerNormalization(name=f"norm1_{i}")(layers.Add()([x, y]))
        y = layers.Dense(8, "relu", name=f"feedforward_{i}")(x)
        x = layers.LayerNormalization(name=f"norm2_{i}")(layers.Add()([x, y]))
    x = layers.Flatten(name="flatten_categories")(x)
    x = layers.Concatenate(name="all_columns")([x, *numbers])
    return keras.Model(inputs, layers.Dense(32, "relu", name="mlp")(x))


def of_table(build):
    frame = make_patients()
    data = ft.from_frame(frame, FEATURES, "ill", test_split=0.25)
    model = ft.replace_head(build(data), 2)
    places = data.places["test"]
    raw = [{name: frame[name][i] for name in FEATURES} for i in places]
    return data, model, raw


def signals():
    """Waves of two shapes, as the engine noise of FordA."""
    rng = np.random.default_rng(0)
    y = np.arange(COUNT) % 2
    t = np.arange(100) / 100 + rng.random((COUNT, 1))
    x = np.sin(2 * np.pi * (6 + 3 * y[:, None]) * t)
    x = (x + rng.normal(size=x.shape) * 0.3).astype("float32")[..., None]
    labels = np.array(["steady", "rising"])[y]
    return ft.from_arrays(x, labels.tolist(), test_split=0.25)


def convolutions(inputs):
    """Timeseries classification from scratch."""
    x = inputs
    for i in range(2):
        x = layers.Conv1D(16, 5, padding="same", name=f"conv_{i}")(x)
        x = layers.BatchNormalization(name=f"norm_{i}")(x)
        x = layers.ReLU(name=f"relu_{i}")(x)
    return x


def transformer(inputs):
    """Timeseries classification with a Transformer model."""
    x = layers.Conv1D(16, 8, strides=4, name="patches")(inputs)
    for i in range(2):
        y = layers.LayerNormalization(name=f"norm1_{i}")(x)
        y = layers.MultiHeadAttention(2, 8, name=f"attention_{i}")(y, y)
        x = layers.Add(name=f"add1_{i}")([x, y])
        y = layers.Conv1D(16, 1, activation="relu", name=f"feedforward_{i}")(x)
        x = layers.Add(name=f"add2_{i}")([x, y])
    return x


def of_signals(build):
    data = signals()
    inputs = keras.Input((100, 1))
    model = ft.replace_head(keras.Model(inputs, build(inputs)), 2)
    x, _ = data.arrays("test")
    return data, model, x


def of_weather():
    """Timeseries forecasting for weather prediction."""
    t = np.arange(1500)
    rng = np.random.default_rng(0)
    series = {
        "temperature": np.sin(t / 12) + 0.3 * np.sin(t / 100),
        "pressure": np.cos(t / 12) + rng.normal(size=len(t)) * 0.05,
    }
    data = ft.from_series(series, length=24, horizon=6, targets=["temperature"])
    inputs = keras.Input((24, 2))
    x = layers.LSTM(16, name="lstm")(inputs)
    model = ft.replace_head(keras.Model(inputs, x), 6, task="regression")
    x, _ = data.arrays("test")
    return data, model, x


def run(name, data, model, raw, plan):
    ft.fine_tune(model, plan, data.train, data.validation, verbose=0)
    report = ft.evaluate(model, data.test, classes=data.classes, verbose=0)
    bundle = ft.load_bundle(ft.save_bundle(model, "model.keras", data))
    found = bundle.predict(raw)
    _, y = data.arrays("test")
    if data.classes is None:
        what = "R2"
        judged = report.metrics["r2"]
        y = y.reshape(len(y), -1)
        rest = ((y - found.values) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)
        bundled = 1 - rest.mean()
    else:
        what, judged = "accuracy", report.metrics["accuracy"]
        names = np.array(data.classes)[y]
        bundled = np.mean(np.array(found.labels) == names)
    groups = [group.name for group in ft.layer_groups(model)]
    print(f"{name:16} {what} {judged:.3f}  bundle {bundled:.3f}  {groups}")


def main():
    plan = ft.plans.full(25, 5e-3)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        keras.utils.set_random_seed(0)
        run("FeatureSpace", *of_table(feature_space), plan)
        run("TabTransformer", *of_table(tab_transformer), plan)
        run("convolutions", *of_signals(convolutions), plan)
        run("transformer", *of_signals(transformer), plan)
        run("weather", *of_weather(), plan)


if __name__ == "__main__":
    main()
