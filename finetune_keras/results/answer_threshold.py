"""From which probability on a question has no answer."""

import copy

import numpy as np

from finetune_keras.models.model import text_model
from finetune_keras.text.text_metrics import score_answer


def with_threshold(model, validation, metric):
    """The same model, which says "no answer" where that is best.

    `validation` are questions with contexts, and the characters at which each
    answer stands, or lists of accepted answers; `metric` is `"f1"`, or
    `"accuracy"`, the exact match.
    """
    x, y = _checked(validation, metric)
    answers = accepted_texts(x[1], y)
    encoder = copy.copy(model.encoder)
    new = text_model(model.input, model.output, encoder, model.name)
    # No share is larger: the best answer of each question.
    encoder.threshold = 1.0
    found = new.predict(x, verbose=0)
    place = ("accuracy", "f1").index(metric)
    texts = [one["text"] for one in found]
    given, none = (
        [score_answer(*pair)[place] for pair in zip(said, answers, strict=True)]
        for said in (texts, [""] * len(texts))
    )
    shares = np.array([one["no_answer"] for one in found])
    encoder.threshold = best_threshold(shares, given, none)
    return new


def best_threshold(shares, given, none):
    """The share of "no answer" above which to give none.

    `given` and `none` score each question with an answer and without. Of
    equally good ones it is that which is nearest to a half, if not a half.
    """
    order = np.argsort(shares, kind="stable")
    edges = np.concatenate([[0.0], shares[order], [1.0]])
    gains = np.asarray(given, "float64") - np.asarray(none, "float64")
    totals = np.concatenate([[0.0], np.cumsum(gains[order])])
    # Between equal shares there is no threshold.
    apart = (edges[:-1] < edges[1:]) | (np.arange(len(totals)) == len(order))
    best = apart & (totals >= totals[apart].max() - 1e-9)
    left, right = edges[:-1][best], edges[1:][best]
    if ((left <= 0.5) & (right > 0.5)).any():
        return 0.5
    middles = (left + right) / 2
    return float(middles[abs(middles - 0.5).argmin()])


def _checked(validation, metric):
    if metric not in ("f1", "accuracy"):
        raise ValueError(
            'Answers are judged by "f1" or "accuracy", the exact match. '
            f"Received: metric={metric!r}"
        )
    if not isinstance(validation, (tuple, list)) or len(validation) != 2:
        raise ValueError(
            "The threshold of answers is chosen on `((questions, contexts), "
            "answers)`, where the answers are the characters at which each "
            "starts and ends, or lists of accepted texts. Received: "
            f"validation of type {type(validation).__name__}"
        )
    return validation


def accepted_texts(contexts, y):
    """Lists of accepted answers; empty where there is none."""
    if len(y) and len(y[0]) and not isinstance(y[0][0], str):
        return [
            [context[start:end]] if start >= 0 else []
            for context, (start, end) in zip(contexts, y, strict=True)
        ]
    if any(isinstance(one, str) for one in y):
        raise ValueError(
            "The accepted answers are a list for each question, an empty one "
            f"where there is none. Received: {y[0]!r}"
        )
    return list(map(list, y))
