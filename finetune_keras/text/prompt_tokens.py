"""From prompts to windows of tokens, in which some are to be written."""

import bisect

import keras
import numpy as np

from finetune_keras.data.buckets import LENGTHS, Buckets
from finetune_keras.data.outputs import writes_text
from finetune_keras.data.prompts import Prompts
from finetune_keras.models.text_encoder import TextEncoder, is_raw
from finetune_keras.text.pair_tokens import pair_arrays, reads_pairs
from finetune_keras.text.prompts import prompts
from finetune_keras.text.sound_tokens import (
    hears,
    lengths_of,
    padded,
    transcript_arrays,
)

# What the cardinality of a `tf.data.Dataset` says of it.
_ENDLESS = -1
# What KerasHub calls questions and answers.
_NAMES = (
    ("prompts", "responses"),
    ("encoder_text", "decoder_text"),
    ("audio", "text"),
)


def as_prompts(data, name="data"):
    """Prompts of data for a model that writes; other data as they are.

    Texts alone, `(texts,)` or a `tf.data.Dataset` of them, are plain ones, and
    `(questions, answers)` pairs, as are dicts of the names that KerasHub has.
    """
    if isinstance(data, Prompts):
        return data
    if hasattr(data, "element_spec"):
        data = _gathered(data)
    if isinstance(data, dict) and any(map(is_raw, data.values())):
        data = _by_name(data, name)
    # Of sounds, what is said in them are the texts.
    if not isinstance(data, (tuple, list)) or not any(map(is_raw, data[:2])):
        return data
    if len(data) > 2:
        raise ValueError(
            "Texts for a language model have no weights: pass (texts,), "
            "(questions, answers) or what `ft.prompts` returns. Received: "
            f"{name} of {len(data)} parts"
        )
    return prompts(*data)


def _by_name(data, name):
    for names in _NAMES:
        if set(data) == set(names):
            return tuple(data[part] for part in names)
    raise ValueError(
        "A dict of texts has the names that KerasHub gives questions and "
        f"answers, {' or '.join(map(str, _NAMES))}. Received: {name} with "
        f"{list(data)}"
    )


def _gathered(dataset):
    """Reads a whole dataset of texts: a tuple of lists, or a dict of them."""
    specs = keras.tree.flatten(dataset.element_spec)
    if not any(spec.dtype.name == "string" for spec in specs):
        return dataset
    if int(dataset.cardinality()) == _ENDLESS:
        raise ValueError(
            "Texts are tokenised before training, all of them, and these never "
            "end. Leave out `repeat()`, or end them by `dataset.take(n)`. "
            f"Received: {dataset!r}"
        )
    parts = [[] for _ in specs]
    for batch in dataset:
        for part, column in zip(parts, keras.tree.flatten(batch), strict=True):
            part += list(np.atleast_1d(column.numpy()))
    if isinstance(dataset.element_spec, dict):
        return dict(zip(sorted(dataset.element_spec), parts, strict=True))
    return tuple(parts)


def tokenize(model, data, batch_size=None):
    """`Buckets` of windows of the tokens of `Prompts`.

    Their parts are `(x, y, sample_weight)`: in `x` is `answer_positions`, the
    places after which the tokens of `y` are to be written. In packed windows
    the padding mask numbers the examples.
    """
    arrays = arrays_of(model, data)[:-1]
    return data.finished(buckets(arrays, batch_size or 32, model))


def arrays_of(model, data, packing=None):
    """`(x, lengths, y, weights, owners)` of the windows of `Prompts`.

    Arrays of rows padded to the longest: dict of inputs, tokens of each, what
    is to be written and its weight, and which example a row is of; of packed
    rows that is `None`.
    """
    check_writes(model)
    if data.are_sounds and not hears(model):
        raise ValueError(
            "Sounds are for a model that hears, KerasHub's "
            "`MoonshineAudioToText`; this one reads texts, lists of strings. "
            f"Received: model={model.name!r}, data={data!r} of "
            f"{data.names[0]!r}"
        )
    if reads_pairs(model):
        return pair_arrays(model, data)
    windows, owners = windows_of(model, data)
    packing = data.packing if packing is None else packing
    if not packing:
        return *window_arrays([[one] for one in windows]), owners
    return *window_arrays(packed(windows, window_length(model, data))), None


def window_length(model, data):
    """The most tokens that a model reads at once."""
    length = data.sequence_length or model.preprocessor.sequence_length
    most = getattr(model.backbone, "max_sequence_length", None)
    return min(length, most or length)


def windows_of(model, data):
    """`(windows, owners)`: windows of tokens, and the examples they are of.

    Of each window the ids, and an array of booleans, which of them are learnt.
    """
    length = window_length(model, data)
    stride = min(data.stride or max(length // 2, 1), length)
    found, owners = [], []
    for i, (ids, learnt) in enumerate(token_rows(model.preprocessor, data)):
        for window in _windows(ids, learnt, length, stride):
            found.append(window)
            owners.append(i)
    return found, np.array(owners)


def length_to_write(model, data):
    """The most tokens of a question and what is written, as long as answers.

    Of a model with an encoder, the most that its decoder writes; of sounds
    twice as much, since what is written too much counts there.
    """
    if hears(model):
        *_, weights = transcript_arrays(model, data.answers)
        most = model.preprocessor.decoder_sequence_length
        return min(2 * int(weights.sum(axis=1).max()) + 1, most)
    if reads_pairs(model):
        *_, weights, _ = pair_arrays(model, data)
        return int(weights.sum(axis=1).max()) + 1
    rows = token_rows(model.preprocessor, data)
    asked = [int(np.flatnonzero(~flags)[-1]) + 1 for _, flags in rows]
    sizes = zip(rows, asked, strict=True)
    longest = max(len(ids) - count for (ids, _), count in sizes)
    most = window_length(model, data)
    if max(asked) >= most:
        place = int(np.argmax(asked))
        raise ValueError(
            f"Question {place} has {max(asked)} tokens, and a window has "
            f"{most}: nothing could be written after it. Shorten it, or raise "
            "`sequence_length`. Received: question "
            f"{data.questions[place][:80]!r}"
        )
    return min(max(asked) + longest, most)


def check_writes(model):
    """Refuses a model that writes no text, or has no tokeniser."""
    preprocessor = getattr(model, "preprocessor", None)
    if not writes_text(model) or not hasattr(preprocessor, "tokenizer"):
        raise ValueError(
            "Prompts are for a `CausalLM` of KerasHub with a preprocessor, "
            "which tokenises them. Give other models arrays: token ids, the "
            "next ids as labels, and weights of 0 where there is none. "
            f"Received: model={model.name!r} of type {type(model).__name__}, "
            f"preprocessor={preprocessor!r}"
        )


def token_rows(preprocessor, data):
    """Lists the ids of each example, and which of them are learnt."""
    tokenizer = preprocessor.tokenizer
    encoder = TextEncoder(tokenizer)
    wholes = [
        "".join(text for text, _ in pieces[: i + 1])
        for pieces in data.examples
        for i in range(len(pieces))
    ]
    alone = [text for pieces in data.examples for text, _ in pieces]
    texts = list(dict.fromkeys(text for text in wholes + alone if text))
    ids_of = dict(zip(texts, encoder.token_ids(texts), strict=True))
    ids_of[""] = []
    start = getattr(tokenizer, "start_token_id", None)
    start = [] if start is None else [start]
    return [
        _row(pieces, ids_of, start, tokenizer.end_token_id)
        for pieces in data.examples
    ]


def _row(pieces, ids_of, start, end):
    ids, flags, whole = [], [], ""
    for text, learnt in pieces:
        whole += text
        longer = ids_of[whole]
        if longer[: len(ids)] != ids:
            # A token would reach over the border, which `generate`, given
            # the prompt alone, could not write.
            longer = ids + ids_of[text]
        flags += [learnt] * (len(longer) - len(ids))
        ids = longer
    if pieces[-1][1] and ids[-1:] != [end]:
        ids, flags = [*ids, end], [*flags, True]
    flags = [False] * len(start) + flags
    return np.array([*start, *ids], "int32"), np.array(flags)


def _windows(ids, learnt, length, stride):
    """Cuts an example; each learnt token is in one window, as a target."""
    # A window of `length` inputs has as many targets, the last one beyond.
    last = max(len(ids) - 1 - length, 0)
    starts = [*range(0, last, stride), last]
    done, found = 1, []
    for start in starts:
        stop = min(start + length + 1, len(ids))
        flags = np.zeros(stop - start, bool)
        flags[done - start :] = learnt[done:stop]
        done = stop
        if flags.any():
            found.append((ids[start:stop], flags))
    return found


def window_arrays(rows):
    """`(x, lengths, y, weights)` of rows of one or more windows."""
    if not rows:
        raise ValueError(
            "There is nothing to learn: no example has an answer of a token. "
            "Received: empty answers"
        )
    lengths = np.array([sum(len(i) - 1 for i, _ in row) for row in rows])
    learnt = [sum(f[1:].sum() for _, f in row) for row in rows]
    ids, mask = np.zeros((2, len(rows), int(lengths.max())), "int32")
    positions, y = np.zeros((2, len(rows), int(max(learnt))), "int32")
    weights = np.zeros(positions.shape, "float32")
    for i, row in enumerate(rows):
        start = count = 0
        for number, (tokens, flags) in enumerate(row, 1):
            stop = start + len(tokens) - 1
            ids[i, start:stop], mask[i, start:stop] = tokens[:-1], number
            places = np.flatnonzero(flags[1:])
            slots = slice(count, count + len(places))
            positions[i, slots] = start + places
            y[i, slots], weights[i, slots] = tokens[1:][places], 1.0
            start, count = stop, slots.stop
    x = {"token_ids": ids, "padding_mask": mask, "answer_positions": positions}
    return x, lengths, y, weights


def buckets(arrays, batch_size, model=None):
    """Rows of `arrays_of` in buckets of their lengths."""
    x, lengths, y, weights = arrays
    limits = LENGTHS
    if hears(model):
        limits = lengths_of(model, int(lengths.max()))
    found = Buckets.sort(x, lengths, (y, weights), batch_size, limits=limits)
    found.parts = [_trimmed(model, *part) for part in found.parts]
    return found


def _trimmed(model, x, y, weights):
    """A part with room for as many answers as its fullest example has."""
    most = int(weights.sum(axis=1).max())
    x = {**x, "answer_positions": x["answer_positions"][:, :most]}
    return padded(model, x), y[:, :most], weights[:, :most]


def packed(windows, length):
    """Puts windows together, the longest first, each where it fits best."""
    rows, room = [], []
    for window in sorted(windows, key=lambda window: -len(window[0])):
        size = len(window[0]) - 1
        place = bisect.bisect_left(room, (size, 0))
        if place == len(room):
            left, row = length, len(rows)
            rows.append([])
        else:
            left, row = room.pop(place)
        rows[row].append(window)
        bisect.insort(room, (left - size, row))
    return rows
