"""Entities and answers: right as a whole, or not."""

import collections
import re
import string

from finetune_keras.data.layout import Shown, Table


def entity_scores(true, predicted):
    """Scores tagged sentences by whole entities.

    An entity counts where type and both ends are right. Entities are read from
    the tags as conlleval does: `B-` begins one, and so does `I-` where none
    of its type goes on; `S-` and `E-` of IOBES are known too.

    Args:
        true: List of lists of tags.
        predicted: The same, what a model found.

    Returns:
        `EntityScores`: dict with `precision`, `recall` and `f1` over all
        entities, and `types`, a dict from each type to its own.

    Raises:
        ValueError: If the sentences differ in number or length.

    Example:

    ```python
    import finetune_keras as ft

    true = [["B-person", "I-person", "O", "B-place"]]
    found = [["B-person", "I-person", "O", "B-person"]]
    print(ft.entity_scores(true, found))
    ```

    Reference:

    - [Tjong Kim Sang and De Meulder, 2003](
        https://aclanthology.org/W03-0419/)
    """
    lengths = [len(tags) for tags in true], [len(tags) for tags in predicted]
    if lengths[0] != lengths[1]:
        raise ValueError(
            "Each word needs a true and a predicted tag. Received: "
            f"{sum(lengths[0])} true tags in {len(true)} sentences and "
            f"{sum(lengths[1])} predicted ones in {len(predicted)}"
        )
    counts = collections.defaultdict(lambda: [0, 0, 0])
    for tags, found in zip(true, predicted, strict=True):
        expected, given = set(_entities(tags)), set(_entities(found))
        for place, entities in enumerate((expected & given, given, expected)):
            for kind, _, _ in entities:
                counts[kind][place] += 1
    types = {kind: _scores(*counts[kind]) for kind in sorted(counts)}
    total = [sum(column) for column in zip(*counts.values(), strict=True)]
    return EntityScores({**_scores(*(total or (0, 0, 0))), "types": types})


class EntityScores(dict, Shown):
    """What `entity_scores` returns; shows as a table."""

    def _layout(self):
        names = ["precision", "recall", "f1"]
        rows = [
            [kind, row["n"], *(f"{row[name]:.4f}" for name in names)]
            for kind, row in [*self["types"].items(), ("all", self)]
        ]
        return [Table(["type", "n", *names], rows)]


def answer_scores(predicted, answers):
    """Scores answers to questions by the definition of SQuAD.

    Case, punctuation, articles and blanks do not count. `exact_match` is the
    share of answers equal to one of the accepted ones; `f1` the mean overlap
    of words with the nearest of them. The script of SQuAD gives both times
    100.

    Args:
        predicted: List of strings, or of dicts with `text`, as
            `question_answerer` predicts them.
        answers: List of lists of strings, the accepted answers; an empty list
            where the right answer is none.

    Returns:
        Dict with `exact_match` and `f1`, floats in [0, 1]. Where some
        questions have no answer, as in SQuAD 2.0, also with `no_answer`, the
        share of these that are left without, and with `has_answer_exact_match`
        and `has_answer_f1` of the others.

    Raises:
        ValueError: If they differ in number, or there are none.

    Example:

    ```python
    import finetune_keras as ft

    print(ft.answer_scores(["the Eiffel Tower"], [["Eiffel Tower", "tower"]]))
    ```

    Reference:

    - [Rajpurkar et al., 2016](https://arxiv.org/abs/1606.05250)
    - [Rajpurkar et al., 2018](https://arxiv.org/abs/1806.03822), of none
    """
    if len(predicted) != len(answers) or not len(answers):
        raise ValueError(
            "Each prediction needs the accepted answers. Received: "
            f"{len(predicted)} predictions and answers to {len(answers)}"
        )
    pairs, lacking = [], []
    for one, accepted in zip(predicted, answers, strict=True):
        text = one["text"] if isinstance(one, dict) else one
        pairs.append(score_answer(text, accepted))
        lacking.append(not _accepted(accepted))
    found = _means(pairs)
    if any(lacking):
        rows = [pair for pair, none in zip(pairs, lacking, strict=True) if none]
        found["no_answer"] = _means(rows)["exact_match"]
    if any(lacking) and not all(lacking):
        rows = [p for p, none in zip(pairs, lacking, strict=True) if not none]
        found |= {f"has_answer_{k}": v for k, v in _means(rows).items()}
    return found


def score_answer(text, accepted):
    """`(exact match, f1)` of an answer, as SQuAD 1.1 and 2.0 have them."""
    accepted = _accepted(accepted) or [""]
    exact = max(_plain(text) == _plain(answer) for answer in accepted)
    return float(exact), max(_overlap(text, answer) for answer in accepted)


def _accepted(answers):
    """Those of which case, articles and punctuation leave something."""
    return [answer for answer in answers if _plain(answer)]


def _means(pairs):
    exact, overlap = map(sum, zip(*pairs, strict=True))
    return {"exact_match": exact / len(pairs), "f1": overlap / len(pairs)}


def _entities(tags):
    """Lists `(type, first, last)` of the entities of a sentence."""
    entities, begun, before, kind = [], None, "O", ""
    for i, tag in enumerate([*tags, "O"]):
        now, _, new_kind = str(tag).partition("-")
        if begun is not None and _ends(before, kind, now, new_kind):
            entities.append((kind, begun, i - 1))
            begun = None
        if _begins(before, kind, now, new_kind):
            begun = i
        before, kind = now, new_kind
    return entities


def _ends(before, kind, now, new_kind):
    return now in ("B", "S", "O") or before in ("E", "S") or kind != new_kind


def _begins(before, kind, now, new_kind):
    if now == "O":
        return False
    return now in ("B", "S") or before in ("E", "S", "O") or kind != new_kind


def _scores(right, found, expected):
    precision = right / found if found else 0.0
    recall = right / expected if expected else 0.0
    both = precision + recall
    f1 = 2 * precision * recall / both if both else 0.0
    return {"precision": precision, "recall": recall, "f1": f1, "n": expected}


def _plain(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _overlap(text, answer):
    words, expected = _plain(text).split(), _plain(answer).split()
    if not words or not expected:
        return float(words == expected)
    common = collections.Counter(words) & collections.Counter(expected)
    return _scores(common.total(), len(words), len(expected))["f1"]
