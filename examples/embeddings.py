"""Vectors of texts from a few labels: a search, and a classifier on top.

An encoder learns to put texts of one label next to each other. Then a search
finds the like of a new text, and logistic regression on the vectors sorts it,
as SetFit does. The encoder is saved as SentenceTransformers reads it.

    python examples/embeddings.py
    python examples/embeddings.py --data tickets.tsv --backbone FOLDER

The data are a file of lines `label<TAB>text`, with a header, of which a fifth
is held out; without it the script uses tickets of its own, and a BERT of one
tiny layer that knows nothing yet. In earnest the backbone is a folder of
SentenceTransformers or Hugging Face, or the name of a KerasHub preset.
"""

import argparse
import pathlib

import keras
import numpy as np

import finetune_keras as ft

TEAMS = {
    "it": "printer screen login mail",
    "people": "holiday salary contract leave",
    "house": "heating window door light",
}
FORMS = (
    "the {} is broken",
    "who knows about {} ?",
    "my {} again",
)


def tickets():
    """Labels and texts, a few of each team."""
    rows = [
        (team, form.format(word))
        for team, words in TEAMS.items()
        for word in words.split()
        for form in FORMS
    ]
    return map(list, zip(*rows, strict=True))


def read(path):
    lines = pathlib.Path(path).read_text("utf-8").splitlines()[1:]
    rows = [line.split("\t", 1) for line in lines if line]
    return map(list, zip(*rows, strict=True))


def small_bert(texts):
    """A BERT that knows the words of some texts, and nothing about them."""
    import keras_hub

    words = sorted({word for text in texts for word in text.split()})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    bert = keras_hub.models.BertBackbone(
        vocabulary_size=len(words),
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=16,
    )
    tokenizer = keras_hub.tokenizers.BertTokenizer(words, lowercase=True)
    return ft.text_backbone(bert, tokenizer, sequence_length=16)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="file of label<TAB>text")
    parser.add_argument("--backbone", help="folder or KerasHub preset")
    parser.add_argument("--sequence-length", type=int)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="encoder")
    arguments = parser.parse_args()
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    keras.utils.set_random_seed(arguments.seed)
    labels, texts = read(arguments.data) if arguments.data else tickets()
    texts, test, labels, test_labels = train_test_split(
        texts, labels, test_size=0.2, random_state=0, stratify=labels
    )
    backbone = arguments.backbone or small_bert(texts)
    encoder = ft.text_embedder(backbone, arguments.sequence_length)
    rate = arguments.learning_rate or (1e-4 if arguments.backbone else 1e-2)
    before = ft.evaluate(encoder, (test, test_labels), bootstrap=0, verbose=0)
    plan = ft.Plan([ft.Phase("all", arguments.epochs, rate)])
    ft.fine_tune(
        encoder,
        plan,
        (texts, labels),
        batch_size=arguments.batch_size,
        verbose=0,
    )
    after = ft.evaluate(encoder, (test, test_labels), verbose=0)
    print(after)
    vectors, new = (encoder.predict(x, verbose=0) for x in (texts, test))
    nearest = (new @ vectors.T).argmax(axis=1)
    for text, place in zip(test[:3], nearest, strict=False):
        print(f"{text!r} is next to {texts[place]!r}")
    classifier = LogisticRegression(max_iter=1000).fit(vectors, labels)
    accuracy = np.mean(classifier.predict(new) == np.array(test_labels))
    print("saved:", ft.save_sentence_transformer(encoder, arguments.out))
    gain = [report.metrics["ndcg_at_10"] for report in (before, after)]
    print(f"nDCG at 10 {gain[0]:.3f} -> {gain[1]:.3f}, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
