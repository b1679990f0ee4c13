"""Questions answered from a text: a BERT that marks where the answer stands.

The data are a folder with `train.json` and `test.json` in the form of SQuAD. A
tenth of the training questions is held out for validation. Contexts that are
too long for the model are read in windows.

    python examples/question_answering.py --data xquad-en
"""

import argparse
import pathlib

import keras

import finetune_keras as ft


def load(folder, limit):
    """Questions, places of answers, and the accepted answers of the test."""
    folder = pathlib.Path(folder)
    (questions, contexts), spans, _ = ft.read_squad(folder / "train.json")
    questions, contexts = questions[:limit], contexts[:limit]
    cut = len(questions) * 9 // 10
    train = (questions[:cut], contexts[:cut]), spans[:cut]
    validation = (questions[cut:], contexts[cut:]), spans[cut:limit]
    (questions, contexts), _, answers = ft.read_squad(folder / "test.json")
    test = (questions[:limit], contexts[:limit]), answers[:limit]
    return train, validation, test


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of .json files")
    parser.add_argument(
        "--backbone",
        default="bert_small_en_uncased",
        help="KerasHub preset, or folder of KerasHub or Hugging Face",
    )
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--limit", type=int, help="questions of each split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="reader.keras")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    train, validation, (x, answers) = load(arguments.data, arguments.limit)
    backbone = ft.text_backbone(
        arguments.backbone, sequence_length=arguments.sequence_length
    )
    model = ft.question_answerer(backbone)
    plan = ft.plans.full(arguments.epochs, arguments.learning_rate)
    ft.fine_tune(
        model, plan, train, validation, batch_size=arguments.batch_size
    )
    ft.save_bundle(model, arguments.out, plan=plan)
    found = ft.load_bundle(arguments.out).predict(x)
    for question, answer in list(zip(x[0], found, strict=True))[:3]:
        print(f"{question} {answer['text']!r} ({answer['score']:.2f})")
    scores = ft.answer_scores(found, answers)
    print(f"exact match {scores['exact_match']:.3f}, F1 {scores['f1']:.3f}")


if __name__ == "__main__":
    main()
