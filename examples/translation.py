"""Sequence to sequence: a model that reads one text and writes another.

    python examples/translation.py --data summaries --model bart_base_en

`--data` is a folder with `train.tsv` and `test.tsv`, with a header and the
columns `source` and `target`: translations, summaries, corrections. `--model`
is a KerasHub preset of a `Seq2SeqLM` (BART, T5), or a folder; all of it
trains, or with `--rank` adapters alone.

With neither, a tiny random BART learns to write dates in another form.
"""

import argparse
import csv
import pathlib

import keras
import keras_hub

import finetune_keras as ft

MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [r["source"] for r in rows], [r["target"] for r in rows]


def embedded():
    """Months and days, to be written as numbers."""
    dates = [(m, d) for m in range(12) for d in (1, 2, 3, 5, 8)]
    pairs = [(f"{MONTHS[m]} {d}", f"{d}.{m + 1}.") for m, d in dates]
    return tuple(zip(*pairs, strict=True)), tuple(zip(*pairs[::7], strict=True))


def tiny_model():
    """A random BART that reads letters and digits."""
    merges = [
        pair
        for month in MONTHS
        for pair in (f"{month[0]} {month[1]}", f"{month[:2]} {month[2]}")
    ]
    merges = list(dict.fromkeys(merges))
    pieces = [pair.replace(" ", "") for pair in merges]
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.", "Ġ"]
    words = ["<s>", "<pad>", "</s>", "<mask>", *letters, *pieces]
    tokenizer = keras_hub.tokenizers.BartTokenizer(
        {word: i for i, word in enumerate(words)}, merges
    )
    backbone = keras_hub.models.BartBackbone(
        vocabulary_size=len(words),
        num_layers=1,
        num_heads=2,
        hidden_dim=32,
        intermediate_dim=64,
        max_sequence_length=16,
        dropout=0.0,
    )
    preprocessor = keras_hub.models.BartSeq2SeqLMPreprocessor(
        tokenizer, encoder_sequence_length=12, decoder_sequence_length=12
    )
    return keras_hub.models.BartSeq2SeqLM(backbone, preprocessor)


def bleu(targets, written):
    """BLEU of all together, as KerasHub has it."""
    metric = keras_hub.metrics.Bleu()
    metric.update_state([[text] for text in targets], written)
    return float(metric.result())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, help="folder of .tsv")
    parser.add_argument("--model", help="KerasHub preset or folder")
    parser.add_argument("--rank", type=int, help="of LoRA")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--limit", type=int, help="examples of each split")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    splits = embedded()
    if arguments.data is not None:
        names = "train.tsv", "test.tsv"
        splits = [read(arguments.data / name) for name in names]
    train, test = (
        ft.prompts(*(column[: arguments.limit] for column in split))
        for split in splits
    )
    if arguments.model is None:
        model = tiny_model()
    else:
        model = keras_hub.models.Seq2SeqLM.from_preset(arguments.model)
    options = arguments.epochs, arguments.learning_rate
    plan = ft.plans.full(*options)
    if arguments.rank is not None:
        ft.add_adapters(model, ft.LoRA(rank=arguments.rank))
        plan = ft.plans.adapters(*options)
    history = ft.fine_tune(model, plan, train, batch_size=arguments.batch_size)
    print(history)
    report = ft.evaluate(model, test, metrics={"bleu": bleu}, verbose=0)
    print(report)
    written = report.predictions.y_pred
    for source, text in list(zip(test.questions, written, strict=True))[:3]:
        print(f"{source!r}: {text!r}")


if __name__ == "__main__":
    main()
