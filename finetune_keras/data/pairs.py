"""Inputs that belong together, two or three a row."""

import itertools

import numpy as np

# What an example is among pairs: the second column of their labels. No label
# that people give is negative and stands in a second column.
QUERY, DOCUMENT = -1, -2


def pairs(anchors, positives, negatives=None):
    """Makes training data of inputs that belong together.

    An encoder learns from them to put each anchor next to its positive, a
    question next to its answer, and away from the positives of the others in
    the same batch, which are its negatives, and from `negatives`. Pairs that
    share an input are of one group, and no negatives of each other.

    Args:
        anchors: List of strings, or array of inputs, one a row.
        positives: The same, what belongs to each anchor.
        negatives: The same, what does not belong to each anchor, though it
            looks so. Defaults to `None`.

    Returns:
        `Pairs`, for `fine_tune` and `evaluate` with a model from
        `text_embedder` or `image_embedder`. A batch of `batch_size` inputs
        has half as many pairs, or a third as many triplets.

    Raises:
        ValueError: If the columns differ in length or in form, or are empty.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft

    questions = ["who ran", "what is good", "who was bad"]
    answers = ["ann ran", "a film", "a film"]
    data = ft.pairs(questions, answers)
    print(len(data), data.groups)  # the last two share an answer
    ```

    Reference:

    - [Henderson et al., 2017](https://arxiv.org/abs/1705.00652)
    """
    columns = [anchors, positives]
    columns += [] if negatives is None else [negatives]
    return Pairs([_column(column) for column in columns])


class Pairs:
    """Pairs or triplets of inputs. Made by `pairs`.

    Attributes:
        columns: List of the anchors, the positives and, of triplets, the
            negatives.
        groups: Array of integers, the group of each anchor and its positive.

    Example:

    ```python
    import finetune_keras as ft

    data = ft.pairs(["who ran", "who was bad"], ["ann ran", "bob"])
    print(len(data), data.columns[1], data.groups)
    ```
    """

    def __init__(self, columns):
        _check(columns)
        self.columns = columns
        count, width = len(columns[0]), len(columns)
        keys = list(map(_key, itertools.chain(*columns)))
        found = _joined(keys, count)
        _, groups = np.unique(found, return_inverse=True)
        self.groups = groups[:count].astype("int32")
        roles = np.repeat([QUERY] + [DOCUMENT] * (width - 1), count)
        self.y = np.stack([groups, roles], axis=1).astype("int32")
        self.units = np.tile(np.arange(count), width)

    def __len__(self):
        """Number of pairs."""
        return len(self.columns[0])

    @property
    def x(self):
        """All inputs: the anchors, then the positives, then the negatives."""
        if isinstance(self.columns[0], list):
            return list(itertools.chain(*self.columns))
        return np.concatenate(self.columns)

    def search(self):
        """What to look for, and where: `(queries, documents, relevant)`.

        Each input once; `relevant` tells, as lists of places, which of the
        documents belong to each query.
        """
        queries, asked = _once(self.columns[0])
        documents = list(itertools.chain(*self.columns[1:]))
        documents, places = _once(documents)
        relevant = [set() for _ in queries]
        for query, document in zip(asked, places, strict=False):
            relevant[query].add(document)
        if not isinstance(self.columns[0], list):
            queries, documents = np.stack(queries), np.stack(documents)
        return queries, documents, [sorted(found) for found in relevant]


def _column(inputs):
    """A list of strings, or an array of inputs."""
    if hasattr(inputs, "to_numpy"):
        inputs = inputs.to_numpy()
    if isinstance(inputs, (str, bytes)) or not hasattr(inputs, "__len__"):
        raise ValueError(
            "Each column of `pairs` must be a list of strings or an array of "
            f"inputs. Received: {inputs!r:.100}"
        )
    if len(inputs) and isinstance(inputs[0], (str, bytes)):
        return [x.decode() if isinstance(x, bytes) else x for x in inputs]
    return np.asarray(inputs)


def _check(columns):
    lengths = [len(column) for column in columns]
    if 0 in lengths or len(set(lengths)) > 1:
        raise ValueError(
            "The columns of `pairs` must be of one length, and not empty. "
            f"Received: columns of length {lengths}"
        )
    texts = [isinstance(column, list) for column in columns]
    if all(texts):
        odd = [x for x in itertools.chain(*columns) if not isinstance(x, str)]
        if odd:
            raise ValueError(
                "Each text of `pairs` must be a string. Received: "
                f"{odd[0]!r}, and {len(odd) - 1} more"
            )
    elif any(texts) or len({c.shape[1:] for c in columns}) > 1:
        forms = [
            "texts" if text else f"an array of shape {column.shape}"
            for text, column in zip(texts, columns, strict=True)
        ]
        raise ValueError(
            "The columns of `pairs` go through one encoder: all must be texts, "
            f"or all arrays of one shape. Received: {forms}"
        )


def _key(one):
    return one if isinstance(one, str) else np.ascontiguousarray(one).tobytes()


def _once(inputs):
    """The different ones of some inputs, and where each of all is there."""
    places, kept = {}, []
    for one in inputs:
        if places.setdefault(_key(one), len(kept)) == len(kept):
            kept.append(one)
    return kept, [places[_key(one)] for one in inputs]


def _joined(keys, count):
    """Number of each input, one for all that pairs and copies join."""
    above = {}

    def top(key):
        while above.setdefault(key, key) != key:
            above[key] = above[above[key]]
            key = above[key]
        return key

    for anchor, positive in zip(keys[:count], keys[count:], strict=False):
        above[top(positive)] = top(anchor)
    numbers = {}
    return [numbers.setdefault(top(key), len(numbers)) for key in keys]
