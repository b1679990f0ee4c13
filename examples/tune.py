"""Searches for the plan and the head that suit a folder of photos.

The folder holds `train/CLASS` and `test/CLASS`, or just `CLASS`, of which a
fifth is held out for the test. The search sees the training and the validation
photos; the winner is then judged on the test photos, beside the default plan.

    python examples/tune.py --data photos --algorithm bayesian --trials 20

With `--reload` nothing is trained: the winner of the folder is loaded in this
process and evaluated again.
"""

import argparse
import pathlib
import time

import keras

import finetune_keras as ft

ALGORITHMS = ("random", "grid", "bayesian", "hyperband")


def load(arguments):
    return ft.image_folder(
        arguments.data,
        image_size=arguments.image_size,
        validation_split=0.2,
        test_split=0.2,
        seed=arguments.seed,
        crop_to_aspect_ratio=True,
    )


def builder(arguments, classes):
    weights = None if arguments.weights == "none" else arguments.weights
    size = arguments.image_size

    def build(hp):
        backbone = ft.backbone(
            "MobileNet",
            input_shape=(size, size, 3),
            weights=weights,
            alpha=arguments.alpha,
        )
        options = ft.model_options(hp)
        return ft.image_classifier(backbone, classes, **options)

    return build


def make_space(arguments):
    space = ft.search_space(
        groups=[0, 1, 2],
        epochs=[arguments.epochs, arguments.epochs // 2],
        dropout=[0.2, 0.0, 0.5],
        l2=[0.0, 1e-4],
        order=False,
        phases=[2, 1],
    )
    if arguments.algorithm != "grid":
        return space
    # Twenty points that are worth it.
    return space.change(
        groups=[0, 2],
        epochs=arguments.epochs,
        learning_rate=[1e-3, 3e-4, 3e-3, 1e-2, 3e-2],
        backbone_factor=0.1,
        boundary=0.4,
        phases=2,
        decay=1.0,
        batch_size=32,
        dropout=[0.2, 0.0],
        l2=0.0,
    )


def search(arguments, data):
    space = make_space(arguments)
    print(space)
    start = time.time()
    found = ft.tune(
        builder(arguments, data.classes),
        data.train,
        data.validation,
        space,
        arguments.algorithm,
        arguments.trials,
        arguments.directory,
        objective="val_accuracy",
        seed=arguments.seed + 1,
    )
    print(found)
    print(f"{arguments.algorithm} took {time.time() - start:.1f} s.")
    return found


def judge(found, data):
    """Judges the winner: on validation, where it won, and on the test."""
    model, plan = found.best()
    score = found.ranked()[0]["score"]
    again = model.evaluate(data.validation, verbose=0, return_dict=True)
    print(plan)
    print(f"Validation accuracy: {score:.4f}, again: {again['accuracy']:.4f}")
    test = model.evaluate(data.test, verbose=0, return_dict=True)
    print(f"Test accuracy: {test['accuracy']:.4f}")
    if again["accuracy"] != score:
        raise SystemExit(f"{again['accuracy']} is not the score {score}.")


def compare_with_default(arguments, found, data):
    """Runs the default plan with the default head, for the test alone."""
    keras.utils.set_random_seed(arguments.seed + 1)
    model = builder(arguments, data.classes)({})
    history = ft.fine_tune(
        model,
        ft.plans.linear_probe_then_full(),
        data.train,
        data.validation,
        monitor="val_accuracy",
        verbose=0,
    )
    test = model.evaluate(data.test, verbose=0, return_dict=True)
    print(
        f"Default plan: validation accuracy {history.best_value:.4f}, test "
        f"accuracy {test['accuracy']:.4f}"
    )


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument(
        "--weights", default="imagenet", help='"imagenet", a file, or "none"'
    )
    parser.add_argument("--alpha", type=float, default=0.25)
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="bayesian")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", default="search")
    parser.add_argument("--reload", action="store_true")
    parser.add_argument("--default", action="store_true", help="compare")
    return parser.parse_args()


def main():
    arguments = parse()
    data = load(arguments)
    print(data)
    if arguments.reload:
        found = ft.Search(arguments.directory)
    else:
        found = search(arguments, data)
    judge(found, data)
    if arguments.default:
        compare_with_default(arguments, found, data)


if __name__ == "__main__":
    main()
