"""From a folder of photos to a calibrated bundle and an HTML report.

The folder holds `train/CLASS` and `test/CLASS`, or just `CLASS`, of which a
fifth of each class is then held out for the test. Every file is checked first.
A new head goes on a pretrained backbone; a plan trains it, then all of it; the
probabilities are calibrated on photos held out of the training; the bundle is
loaded again and judged on the test photos.

    python examples/image_classification.py --data photos
"""

import argparse
import pathlib
import time

import keras
import numpy as np

import finetune_keras as ft

PLANS = {
    "linear_probe": ft.plans.linear_probe,
    "full": ft.plans.full,
    "discriminative": ft.plans.discriminative,
    "linear_probe_then_full": ft.plans.linear_probe_then_full,
}


def load(arguments):
    """Checks all files; photos are cut to a square in the middle."""
    return ft.image_folder(
        arguments.data,
        image_size=arguments.image_size,
        validation_split=arguments.validation_split,
        test_split=0.2,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        crop_to_aspect_ratio=True,
    )


def build(arguments, data):
    options = {} if arguments.alpha is None else {"alpha": arguments.alpha}
    weights = None if arguments.weights == "none" else arguments.weights
    size = arguments.image_size
    backbone = ft.backbone(
        arguments.backbone,
        input_shape=(size, size, 3),
        weights=weights,
        **options,
    )
    return ft.image_classifier(
        backbone,
        data.classes,
        augmentation=arguments.augmentation,
        hidden_units=arguments.hidden_units,
        dropout=arguments.dropout,
    )


def make_plan(arguments):
    names = ("epochs", "learning_rate", "patience")
    given = {name: getattr(arguments, name) for name in names}
    given = {k: v for k, v in given.items() if v is not None}
    return PLANS[arguments.plan](**given)


def judge(bundle, data, folder):
    """Judges the loaded bundle, and writes the report."""
    report = ft.evaluate(bundle.model, data.test, classes=data.classes)
    print(report)
    report.to_html(folder / "report.html", data=data)
    predictions = bundle.predict(list(data.columns["test"]["path"]))
    labels = np.concatenate([y for _, y in data.test])
    named = np.array([data.classes[label] for label in labels])
    predicted = np.array(data.classes)[predictions.probabilities.argmax(-1)]
    decided = ~predictions.abstained
    right = predicted == named
    for name in data.classes:
        mine = named == name
        print(f"  {name}: {right[mine].mean():.3f} of {mine.sum()}")
    print(
        f"Decided on {decided.mean():.0%} of the test photos, "
        f"{right[decided].mean():.3f} of them right."
    )
    print(f"Test accuracy: {right.mean():.3f}")
    return report


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--backbone", default="MobileNetV2")
    parser.add_argument(
        "--weights", default="imagenet", help='"imagenet", a file, or "none"'
    )
    parser.add_argument("--alpha", type=float, help="width of a MobileNet")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--plan", choices=PLANS, default="linear_probe")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--patience", type=int)
    parser.add_argument("--augmentation", help="light, medium or strong")
    parser.add_argument("--hidden-units", type=int, nargs="*", default=())
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--validation-split", type=float, default=0.15)
    parser.add_argument("--coverage", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="photos.keras")
    return parser.parse_args()


def main():
    arguments = parse()
    keras.utils.set_random_seed(arguments.seed)
    data = load(arguments)
    print(data)
    model, plan = build(arguments, data), make_plan(arguments)
    print(plan)
    start = time.time()
    history = ft.fine_tune(model, plan, data.train, data.validation, verbose=2)
    print(f"Training took {time.time() - start:.1f} s.")
    model = ft.calibrate(model, data.validation, coverage=arguments.coverage)
    path = pathlib.Path(
        ft.save_bundle(model, arguments.output, data, plan=plan)
    )
    print(f"Saved as {path}; loaded again, on the test photos:")
    report = judge(ft.load_bundle(path), data, path.parent)
    ft.save_record(
        path.parent / "record", model, history, plan, data, {"test": report}
    )


if __name__ == "__main__":
    main()
