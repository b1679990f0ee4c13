"""Named entities: a BERT that tags each word, judged by whole entities.

The data are a folder with `train.conll` and `test.conll`, and `dev.conll` if
there is one: one word a line with its tag in the last column, an empty line
between sentences, as CoNLL-2003 and WNUT-17 come. Without a file for
validation, a fifth of the training sentences is held out.

    python examples/named_entities.py --data wnut17
"""

import argparse
import pathlib

import keras

import finetune_keras as ft


def load(folder, limit):
    """Sentences and tags for training, validation and test."""
    folder = pathlib.Path(folder)
    sentences, tags = ft.read_conll(folder / "train.conll")
    if (folder / "dev.conll").exists():
        validation = ft.read_conll(folder / "dev.conll")
    else:
        cut = len(sentences) * 4 // 5
        validation = sentences[cut:], tags[cut:]
        sentences, tags = sentences[:cut], tags[:cut]
    test = ft.read_conll(folder / "test.conll")
    splits = (sentences, tags), validation, test
    return [tuple(part[:limit] for part in split) for split in splits]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of .conll files")
    parser.add_argument(
        "--backbone",
        default="bert_small_en_uncased",
        help="KerasHub preset, or folder of KerasHub or Hugging Face",
    )
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--limit", type=int, help="sentences of each split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="entities.keras")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    train, validation, test = load(arguments.data, arguments.limit)
    tags = sorted(
        {tag for split in (train, validation) for s in split[1] for tag in s},
        key=lambda tag: (tag != "O", tag),
    )
    backbone = ft.text_backbone(
        arguments.backbone, sequence_length=arguments.sequence_length
    )
    model = ft.token_classifier(backbone, tags)
    plan = ft.plans.full(arguments.epochs, arguments.learning_rate)
    ft.fine_tune(
        model, plan, train, validation, batch_size=arguments.batch_size
    )
    ft.save_bundle(model, arguments.out, plan=plan)
    bundle = ft.load_bundle(arguments.out)
    scores = ft.entity_scores(test[1], bundle.predict(test[0]))
    print(scores)
    words = "Ann Smith moved from Berlin to Paris .".split()
    (found,) = bundle.predict([words])
    print(" ".join(f"{w}/{t}" for w, t in zip(words, found, strict=True)))
    print(f"entity F1 {scores['f1']:.3f}")


if __name__ == "__main__":
    main()
