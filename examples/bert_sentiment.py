"""BERT for sentiment: the classic recipe, from raw sentences to a bundle.

The data are a file of lines `label<TAB>sentence`, with a header, of which a
fifth is held out for validation; or a folder with `train.tsv` and, for the
figure at the end, `test.tsv`. BERT is trained in full: batches of 8, 3 epochs,
weight decay 0.01, judged on the validation sentences after each epoch. The
best epoch is kept, saved with its tokeniser, loaded again and asked.

    python examples/bert_sentiment.py --data reviews.tsv
"""

import argparse
import pathlib

import keras

import finetune_keras as ft


def load(arguments):
    """Splits for training and validation, and the test sentences."""
    path = pathlib.Path(arguments.data)
    train = path / "train.tsv" if path.is_dir() else path
    data = ft.from_csv(
        train,
        features=arguments.text,
        label=arguments.label,
        validation_split=0.2,
        test_split=0.0,
        quotes=False,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
    )
    test = path / "test.tsv"
    if not (path.is_dir() and test.exists()):
        return data, None
    whole = ft.from_csv(
        test,
        features=arguments.text,
        label=arguments.label,
        validation_split=0.0,
        test_split=0.0,
        quotes=False,
    )
    return data, whole.train


def build(arguments, data):
    backbone = ft.text_backbone(
        arguments.backbone, sequence_length=arguments.sequence_length
    )
    model = ft.text_classifier(backbone, data.classes)
    optimizer = keras.optimizers.AdamW(arguments.learning_rate, 0.01)
    optimizer.exclude_from_weight_decay(var_names=["bias", "norm"])
    model.compile(
        optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="file or folder")
    parser.add_argument(
        "--backbone",
        default="bert_small_en_uncased",
        help="KerasHub preset, or folder of KerasHub or Hugging Face",
    )
    parser.add_argument("--text", default="sentence", help="column of texts")
    parser.add_argument("--label", default="label", help="column of labels")
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="sentiment")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    data, test = load(arguments)
    print(data)
    model = build(arguments, data)
    plan = ft.Plan([ft.Phase("all", arguments.epochs)])
    history = ft.fine_tune(model, plan, data.train, data.validation)
    print(history)
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    ft.save_bundle(model, out / "sentiment.keras", data=data, plan=plan)
    bundle = ft.load_bundle(out / "sentiment.keras")
    judged = test if test is not None else data.validation
    report = ft.evaluate(bundle.model, judged, classes=data.classes)
    print(report)
    texts = ["A stirring, funny film.", "A waste of time."]
    predictions = bundle.predict(texts)
    print(predictions.labels, predictions.confidence.round(3).tolist())
    print(f"accuracy {report.metrics['accuracy']:.3f}")


if __name__ == "__main__":
    main()
