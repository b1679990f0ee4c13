"""A table of numbers, categories and dates, beside scikit-learn's pipeline.

The table is a CSV file, of which all columns but the label are features; their
kinds are found. Without `--data` it is one of scikit-learn's data sets, of
which two columns are made categories and one a date, and 5 % of all values are
left out. A small network on Keras's `FeatureSpace` is judged beside
scikit-learn's own pipeline on the same split, saved, loaded, and asked with
raw rows.

    python examples/tables.py --set breast_cancer
    python examples/tables.py --data sales.csv --label sold
"""

import argparse
import datetime
import time

import keras
import numpy as np
from sklearn import (
    compose,
    datasets,
    impute,
    linear_model,
    pipeline,
    preprocessing,
)

import finetune_keras as ft

SETS = ("wine", "breast_cancer", "diabetes")


def make_table(name, seed=0):
    """A data set of scikit-learn as a dict of columns with gaps."""
    found = getattr(datasets, f"load_{name}")()
    rng = np.random.default_rng(seed)
    table = {}
    for i, column in enumerate(found.feature_names):
        values = found.data[:, i].tolist()
        if i in (1, 3):
            edges = np.quantile(values, [0.25, 0.5, 0.75])
            names = ["low", "middle", "high", "top"]
            values = [names[k] for k in np.searchsorted(edges, values)]
        elif i == 2:
            low, high = min(values), max(values)
            days = [365 * (v - low) / (high - low) for v in values]
            first = datetime.date(2023, 1, 1)
            values = [str(first + datetime.timedelta(day)) for day in days]
        lost = rng.random(len(values)) < 0.05
        table[column] = [
            None if gone else value
            for value, gone in zip(values, lost, strict=True)
        ]
    regression = name == "diabetes"
    table["label"] = (
        found.target.tolist()
        if regression
        else [str(found.target_names[k]) for k in found.target]
    )
    return table


def build(data):
    """A head that reads the columns, and a hidden layer on them."""
    space = data.feature_space()
    columns = space.get_encoded_features()
    hidden = keras.layers.Dense(16, "relu", name="hidden")(columns)
    x = keras.layers.Concatenate(name="wide_and_deep")([columns, hidden])
    backbone = keras.Model(space.get_inputs(), x, name="table")
    if data.classes is None:
        return ft.replace_head(backbone, 1, task="regression")
    return ft.replace_head(backbone, len(data.classes))


def scikit_learn(data, table):
    """Scikit-learn's pipeline on the same split: its score on the test."""
    kinds = data.kinds
    rows = np.empty((len(data.names), len(kinds)), object)
    for i, (name, kind) in enumerate(kinds.items()):
        rows[:, i] = [as_value(value, kind) for value in table[name]]
    words = [i for i, kind in enumerate(kinds.values()) if kind == "category"]
    others = [i for i in range(len(kinds)) if i not in words]
    numbers = pipeline.make_pipeline(
        impute.SimpleImputer(add_indicator=True),
        preprocessing.StandardScaler(),
    )
    columns = compose.ColumnTransformer(
        [
            ("numbers", numbers, others),
            (
                "words",
                preprocessing.OneHotEncoder(handle_unknown="ignore"),
                words,
            ),
        ]
    )
    regression = data.classes is None
    model = linear_model.LogisticRegression(max_iter=1000)
    model = linear_model.RidgeCV(np.logspace(-2, 2, 9)) if regression else model
    model = pipeline.make_pipeline(columns, model)
    y = np.array(table["label"])
    train, test = data.places["train"], data.places["test"]
    model.fit(rows[train], y[train])
    return model.score(rows[test], y[test])


def as_value(value, kind):
    if kind == "category":
        return "missing" if value is None else value
    if kind == "date" and value is not None:
        return datetime.date.fromisoformat(value).toordinal()
    return np.nan if value is None else value


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="CSV file; the default is made")
    parser.add_argument("--label", default="label")
    parser.add_argument("--set", choices=SETS, default="wine")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="table.keras")
    return parser.parse_args()


def load(arguments):
    """The data, and the table where it was made here."""
    options = {
        "validation_split": 0,
        "test_split": 0.25,
        "seed": arguments.seed,
        "kinds": "auto",
    }
    if arguments.data is None:
        table = make_table(arguments.set)
        features = [name for name in table if name != "label"]
        return ft.from_frame(table, features, "label", **options), table
    with open(arguments.data) as file:
        names = file.readline().strip().split(",")
    features = [name for name in names if name != arguments.label]
    return ft.from_csv(
        arguments.data, features, arguments.label, **options
    ), None


def main():
    arguments = parse()
    keras.utils.set_random_seed(arguments.seed)
    data, table = load(arguments)
    print(data)
    model = build(data)
    # The head is solved, then all is trained: values may be of any size.
    plan = ft.plans.linear_probe_then_full(
        epochs=arguments.epochs, learning_rate=arguments.learning_rate
    )
    start = time.time()
    ft.fine_tune(model, plan, data.train, verbose=0)
    print(f"Training took {time.time() - start:.1f} s.")
    report = ft.evaluate(model, data.test, classes=data.classes, verbose=0)
    score = report.metrics["r2" if data.classes is None else "accuracy"]
    bundle = ft.load_bundle(ft.save_bundle(model, arguments.output, data))
    if table is not None:
        row = {name: table[name][0] for name in data.kinds}
        print("A row:", row)
        print("Predicted:", bundle.predict(row)[0])
        empty = {name: None for name in data.kinds}
        print("Of nothing:", bundle.predict(empty)[0])
        print(f"scikit-learn's pipeline: {scikit_learn(data, table):.3f}")
    print(f"The network: {score:.3f}")


if __name__ == "__main__":
    main()
