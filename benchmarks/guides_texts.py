"""The guides of keras.io on texts, with a small random model in each.

What a guide does is done here by this library: texts read, the model trained,
judged, kept in a file, and the file asked. Texts are made: a few birds, tools
and trees, and what is said of them.

Lines of code are those of a guide's function below, and those of the guide
without imports, comments, printing, figures, and without what loads or makes
the model that is replaced.

    python benchmarks/guides_texts.py
"""

import argparse
import contextlib
import inspect
import io
import itertools
import json
import pathlib
import tempfile

import keras
import keras_hub
import numpy as np
import pandas as pd
import sentencepiece
import tensorflow as tf
from keras import layers

import finetune_keras as ft

KINDS = {
    "bird": "owl tit jay emu hen".split(),
    "tool": "saw axe hoe pin awl".split(),
    "tree": "elm fir yew oak ash".split(),
}
KIND_OF = {word: kind for kind in KINDS for word in KINDS[kind]}
WORDS = list(KIND_OF)
SAID = [
    f"the {a} is by the {b}"
    for a, b in itertools.permutations(WORDS, 2)
    if KIND_OF[a] != KIND_OF[b]
]
RNG = np.random.default_rng(0)
SAID = [SAID[i] for i in RNG.permutation(len(SAID))]
TRAIN, TEST, ASKED = SAID[:120], SAID[120:], ["the owl is", "the fir is"]
SPECIAL = "[PAD] [UNK] [CLS] [SEP] [MASK]".split()
ALL = [*SPECIAL, *WORDS, *KINDS, *"the is by where what a no ? .".split()]
PLAIN = {"hidden_dim": 32, "intermediate_dim": 64, "dropout": 0.0}


# === The models of the guides, smaller ===


def gpt2(length=32):
    letters = [*"abcdefghijklmnopqrstuvwxyz?.:", "Ġ", "Ċ", "<|endoftext|>"]
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(
        {token: i for i, token in enumerate([*letters, "th", "the"])},
        ["t h", "th e"],
    )
    backbone = keras_hub.models.GPT2Backbone(
        len(letters) + 2, 2, 2, max_sequence_length=length, **PLAIN
    )
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, length)
    return keras_hub.models.GPT2CausalLM(backbone, preprocessor)


def pieces(**options):
    """A model of SentencePiece for the texts, as bytes."""
    model = io.BytesIO()
    texts = [*SAID, *WORDS, *(f"Instruction: {k} Response: ?" for k in KINDS)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=64,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def gemma():
    ends = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    names = {"bos_piece": "<bos>", "eos_piece": "<eos>", "pad_piece": "<pad>"}
    tokenizer = keras_hub.tokenizers.GemmaTokenizer(pieces(**ends, **names))
    backbone = keras_hub.models.GemmaBackbone(
        tokenizer.vocabulary_size(), 2, 2, 1, 32, 64, 16
    )
    preprocessor = keras_hub.models.GemmaCausalLMPreprocessor(tokenizer, 64)
    return keras_hub.models.GemmaCausalLM(backbone, preprocessor)


def has_read(lm):
    """Adapters change a model that knows something: it reads other texts."""
    texts = [f"a {word} is a {kind}" for word, kind in KIND_OF.items()] * 4
    ft.fine_tune(lm, ft.plans.full(12, 3e-3), (texts,), verbose=0)
    return lm


def bert():
    backbone = keras_hub.models.BertBackbone(
        len(ALL), 2, 2, max_sequence_length=32, **PLAIN
    )
    tokenizer = keras_hub.tokenizers.BertTokenizer(ALL, lowercase=True)
    return ft.text_backbone(backbone, tokenizer, sequence_length=32)


def deberta():
    ends = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}
    names = {"bos_piece": "[CLS]", "eos_piece": "[SEP]", "pad_piece": "[PAD]"}
    proto = pieces(unk_piece="[UNK]", **ends, **names)
    tokenizer = keras_hub.tokenizers.DebertaV3Tokenizer(proto)
    backbone = keras_hub.models.DebertaV3Backbone(
        tokenizer.vocabulary_size(), 2, 2, max_sequence_length=32,
        bucket_size=8, **PLAIN,
    )  # fmt: skip
    return ft.text_backbone(backbone, tokenizer, sequence_length=32)


def convolutions():
    """`TextVectorization` and convolutions, of strings, with a sigmoid."""
    vectorize = layers.TextVectorization(output_sequence_length=12)
    vectorize.adapt(SAID)
    inputs = keras.Input((), dtype="string")
    x = layers.Embedding(vectorize.vocabulary_size(), 32)(vectorize(inputs))
    x = layers.Conv1D(32, 3, activation="relu")(x)
    x = layers.GlobalMaxPooling1D()(x)
    outputs = layers.Dense(1, activation="sigmoid", name="predictions")(x)
    return keras.Model(inputs, outputs)


def bart():
    letters = ["<s>", "<pad>", "</s>", "<mask>", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = keras_hub.tokenizers.BartTokenizer(
        {token: i for i, token in enumerate([*letters, "Ġ", "th", "the"])},
        ["t h", "th e"],
    )
    backbone = keras_hub.models.BartBackbone(
        len(letters) + 3, 2, 2, max_sequence_length=48, **PLAIN
    )
    preprocessor = keras_hub.models.BartSeq2SeqLMPreprocessor(tokenizer, 48, 12)
    return keras_hub.models.BartSeq2SeqLM(backbone, preprocessor)


# === Their data ===


def make_files():
    """The files that guides read, in the folder that we are in."""
    for text in SAID:
        kind = "pos" if text.split()[1] in KINDS["bird"] else "neg"
        place = pathlib.Path("reviews", kind)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{text.replace(' ', '_')}.txt").write_text(text)
    dolly = [{"instruction": word, "response": KIND_OF[word]} for word in WORDS]
    lines = map(json.dumps, dolly)
    pathlib.Path("dolly.jsonl").write_text("\n".join(lines))
    for name, texts in (("train", TRAIN), ("test", TEST)):
        tagged = "\n\n".join(map(in_columns, texts))
        pathlib.Path(f"{name}.conll").write_text(tagged)
        squad = {"data": [{"paragraphs": [*map(paragraph, texts)]}]}
        pathlib.Path(f"{name}.json").write_text(json.dumps(squad))
        swag = pd.DataFrame([*map(choices, texts)])
        swag.to_csv(f"{name}.csv")


def summary(text):
    """The two things that a text is of."""
    return f"{text.split()[1]} {text.split()[-1]}"


def in_columns(text):
    tags = {word: f"B-{kind}" for word, kind in KIND_OF.items()}
    return "\n".join(f"{word} {tags.get(word, 'O')}" for word in text.split())


def paragraph(text):
    first, second = text.split()[1], text.split()[-1]
    answer = {"text": second, "answer_start": text.index(second)}
    question = f"where is the {first} ?"
    asked = {"question": question, "answers": [answer], "id": text}
    return {"context": text, "qas": [asked]}


def choices(text):
    """What a thing is, among four, of which one is right."""
    word = text.split()[1]
    endings = [*KINDS, "word"]
    turned = endings[len(text) % 4 :] + endings[: len(text) % 4]
    row = {f"ending{i}": ending for i, ending in enumerate(turned)}
    label = turned.index(KIND_OF[word])
    return {"startphrase": f"the {word} is a", **row, "label": label}


# === The guides ===


def gpt2_text_generation(lm):
    """Texts in a `tf.data.Dataset`; all weights train."""
    texts = tf.data.Dataset.from_tensor_slices(TRAIN).batch(16)
    ft.fine_tune(lm, ft.plans.full(6, 3e-3), texts, verbose=0)
    report = ft.evaluate(lm, (TEST,), verbose=0)
    bundle = ft.load_bundle(ft.save_bundle(lm, "gpt2.keras"))
    lm.compile(sampler="greedy")
    before = lm.generate(ASKED, strip_prompt=True)
    return report.metrics["perplexity"], before, bundle.predict(ASKED)


def gpt2_lora(lm):
    """The same with adapters, in a file of their own, merged elsewhere."""
    lm.save_to_preset("base")
    texts = tf.data.Dataset.from_tensor_slices(TRAIN).batch(16)
    ft.add_adapters(lm, ft.LoRA(rank=4, alpha=32))
    ft.fine_tune(lm, ft.plans.adapters(20, 1e-2), texts, verbose=0)
    report = ft.evaluate(lm, (TEST,), verbose=0)
    ft.save_adapters(lm, "lora.safetensors")
    again = keras_hub.models.CausalLM.from_preset("base")
    ft.load_adapters(again, "lora.safetensors")
    ft.merge_adapters(again)
    lm.compile(sampler="greedy")
    again.compile(sampler="greedy")
    before, after = lm.generate(ASKED), again.generate(ASKED)
    return report.metrics["perplexity"], before, after


def gemma_lora(lm):
    """Instructions and responses of a file, put into a template."""
    lines = pathlib.Path("dolly.jsonl").read_text().splitlines()
    rows = pd.DataFrame(map(json.loads, lines))
    template = "Instruction: {} Response:".format
    data = ft.prompts(rows.instruction, rows.response, template)
    ft.add_adapters(lm, ft.LoRA(rank=4))
    ft.fine_tune(lm, ft.plans.adapters(40, 5e-3), data, verbose=0)
    report = ft.evaluate(lm, data, verbose=0)
    ft.merge_adapters(lm)
    bundle = ft.load_bundle(ft.save_bundle(lm, "gemma.keras"))
    lm.compile(sampler="greedy")
    before = lm.generate(data.questions, strip_prompt=True)
    return report.metrics["perplexity"], before, bundle.predict(data.questions)


def from_scratch(model):
    """A folder of texts, read by `TextVectorization` in the model."""
    data = ft.text_folder("reviews", batch_size=16)
    plan = ft.plans.full(12, 3e-3)
    ft.fine_tune(model, plan, data.train, data.validation, verbose=0)
    report = ft.evaluate(model, data.test, classes=data.classes, verbose=0)
    path = ft.save_bundle(model, "reviews.keras", data)
    files = data.columns["test"]["path"]
    texts = [pathlib.Path(file).read_text() for file in files]
    after = ft.load_bundle(path).predict(texts).labels
    before = [data.classes[i] for i in report.predictions.y_pred]
    return report.metrics["accuracy"], before, after


def ner(backbone):
    """Words and tags in the columns of a file."""
    train, test = map(ft.read_conll, ("train.conll", "test.conll"))
    model = ft.token_classifier(backbone, ["O", "B-bird", "B-tool", "B-tree"])
    ft.fine_tune(model, ft.plans.full(10, 3e-3), train, test, verbose=0)
    before = model.predict(test[0], verbose=0)
    bundle = ft.load_bundle(ft.save_bundle(model, "tags.keras"))
    scores = ft.entity_scores(test[1], before)
    return scores["f1"], before, bundle.predict(test[0])


def squad(backbone):
    """Answers that stand in a text, in a file of the form of SQuAD."""
    x, spans, _ = ft.read_squad("train.json")
    asked, _, answers = ft.read_squad("test.json")
    model = ft.question_answerer(backbone)
    ft.fine_tune(model, ft.plans.full(20, 3e-3), (x, spans), verbose=0)
    before = model.predict(asked, verbose=0)
    bundle = ft.load_bundle(ft.save_bundle(model, "reader.keras"))
    scores = ft.answer_scores(before, answers)
    return scores["exact_match"], before, bundle.predict(asked)


def multiple_choice(backbone):
    """One of four endings, in the columns of a table."""
    train, test = (
        ((list(rows.startphrase), rows.filter(like="ending").values.tolist()),
         rows.label.tolist())
        for rows in map(pd.read_csv, ("train.csv", "test.csv"))
    )  # fmt: skip
    model = ft.multiple_choice(backbone)
    ft.fine_tune(model, ft.plans.full(20, 3e-3), train, test, verbose=0)
    report = ft.evaluate(model, test, verbose=0)
    before = model.predict(test[0], verbose=0)
    bundle = ft.load_bundle(ft.save_bundle(model, "chooser.keras"))
    return report.metrics["accuracy"], before, bundle.predict(test[0])


def bart_summaries(model):
    """A `tf.data.Dataset` of what is read and what is written."""
    texts = {"encoder_text": TRAIN, "decoder_text": [*map(summary, TRAIN)]}
    train = tf.data.Dataset.from_tensor_slices(texts).batch(16)
    test = ft.prompts(TEST, [*map(summary, TEST)])
    ft.fine_tune(model, ft.plans.full(30, 3e-3), train, verbose=0)
    report = ft.evaluate(model, test, verbose=0)
    bundle = ft.load_bundle(ft.save_bundle(model, "bart.keras"))
    before = report.predictions.y_pred
    return report.metrics["rouge_l"], before, bundle.predict(TEST)


# Guide, model, lines of code of the guide, what it is judged by.
GUIDES = {
    "gpt2_text_generation_with_keras_hub": (
        gpt2_text_generation, gpt2, 22, "perplexity"),
    "parameter_efficient_finetuning_of_gpt2_with_lora": (
        gpt2_lora, lambda: has_read(gpt2()), 137, "perplexity"),
    "Gemma, LoRA": (
        gemma_lora, lambda: has_read(gemma()), 38, "perplexity"),
    "text_classification_from_scratch": (
        from_scratch, convolutions, 58, "accuracy"),
    "ner_transformers": (ner, bert, 96, "F1 of entities"),
    "text_extraction_with_bert": (squad, bert, 168, "exact match"),
    "multiple_choice_task_with_transfer_learning": (
        multiple_choice, deberta, 177, "accuracy"),
    "abstractive_summarization_with_bart": (
        bart_summaries, bart, 42, "ROUGE-L"),
}  # fmt: skip


def lines_of(function):
    """Lines of code of a function, but its first and its docstring."""
    lines = inspect.getsource(function).splitlines()[2:]
    return sum(bool(line.strip()) for line in lines)


def follow(name):
    """One guide: the row of the table."""
    function, make, there, measure = GUIDES[name]
    keras.utils.set_random_seed(0)
    judged, before, after = function(make())
    same = np.mean([a == b for a, b in zip(before, after, strict=True)])
    return (
        f"| `{name}` | {there} | {lines_of(function)} "
        f"| {measure} {judged:.2f} | {same:.2f} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("guides", nargs="*", help="some of them, or all")
    names = parser.parse_args().guides or GUIDES
    print(
        "| guide | its lines | lines here | judged | the file says the same |"
    )
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        make_files()
        for name in names:
            print(follow(name), flush=True)


if __name__ == "__main__":
    main()
