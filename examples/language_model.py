"""A language model learns to answer: LoRA, loss on the answers alone.

    python examples/language_model.py --data tickets --model smollm

`--data` is a folder with `train.tsv` and `test.tsv`, with a header and the
columns `question` and `answer`; `--model` a KerasHub preset of a model that
writes (GPT-2, Llama, Gemma, Qwen, SmolLM ...), or a folder of KerasHub or
Hugging Face. Adapters are trained and kept in a file of their own.

With neither, a model of two tiny random layers learns what a few words are:
all of it trains, since it knows nothing yet.
"""

import argparse
import csv
import pathlib

import keras
import keras_hub
import numpy as np

import finetune_keras as ft

KINDS = {
    "bird": "owl tit jay",
    "tool": "saw axe hoe",
    "tree": "elm fir yew",
}


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [r["question"] for r in rows], [r["answer"] for r in rows]


def embedded():
    """Words and what they are; all of them to learn and to be asked for."""
    pairs = [(w, kind) for kind in KINDS for w in KINDS[kind].split()]
    order = np.random.default_rng(0).permutation(len(pairs))
    data = tuple(zip(*(pairs[i] for i in order), strict=True))
    return data, data


def tiny_model():
    """A random GPT-2 that reads letters."""
    end = "<|endoftext|>"
    pieces = [*"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ċ"]
    words = [f"Ġ{kind}"[:i] for kind in KINDS for i in range(2, 6)]
    tokens = list(dict.fromkeys([*pieces, *words, end]))
    merges = [f"{word[:-1]} {word[-1]}" for word in words]
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(
        {token: i for i, token in enumerate(tokens)},
        list(dict.fromkeys(merges)),
    )
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=len(tokens),
        num_layers=2,
        num_heads=2,
        hidden_dim=32,
        intermediate_dim=64,
        max_sequence_length=16,
        dropout=0.0,
    )
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=16
    )
    return keras_hub.models.GPT2CausalLM(backbone, preprocessor)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, help="folder of .tsv")
    parser.add_argument("--model", help="KerasHub preset or folder")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--sequence-length", type=int)
    parser.add_argument("--limit", type=int, help="examples of each split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="answers.safetensors")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    splits = embedded()
    if arguments.data is not None:
        names = "train.tsv", "test.tsv"
        splits = [read(arguments.data / name) for name in names]
    train, test = (
        ft.prompts(
            questions[: arguments.limit],
            answers[: arguments.limit],
            sequence_length=arguments.sequence_length,
        )
        for questions, answers in splits
    )
    if arguments.model is None:
        model = tiny_model()
        plan = ft.plans.full(
            arguments.epochs or 80, arguments.learning_rate or 3e-3
        )
    else:
        model = keras_hub.models.CausalLM.from_preset(arguments.model)
        print("before:", ft.evaluate(model, test, verbose=0).metrics)
        ft.add_adapters(model, ft.LoRA(rank=arguments.rank))
        plan = ft.plans.adapters(
            arguments.epochs or 3, arguments.learning_rate or 1e-3
        )
    history = ft.fine_tune(model, plan, train, batch_size=arguments.batch_size)
    print(history)
    print(ft.evaluate(model, test, verbose=0))
    if arguments.model is not None:
        ft.save_adapters(model, arguments.out)
    model.compile(sampler="greedy")
    question = test.questions[0]
    length = 16 if arguments.model is None else None
    print(f"{question!r}: {model.generate(question, length)!r}")


if __name__ == "__main__":
    main()
