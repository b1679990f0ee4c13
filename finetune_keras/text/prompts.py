"""Texts, questions, sounds and chats as data for a model that writes."""

import os

from finetune_keras.arguments import check, integer, maybe, one_of
from finetune_keras.data.prompts import Prompts
from finetune_keras.models.text_encoder import check_texts, is_raw


def prompts(
    questions,
    answers=None,
    template=None,
    separator=" ",
    sequence_length=None,
    stride=None,
    packing=False,
):
    """Gathers what a language model is to learn to write.

    `fine_tune` tokenises it with the tokeniser of the model, as the model's
    `generate` does, and ends each example with the end token. The loss is that
    of the answers: of questions and padding there is none. `evaluate` judges
    a model on it.

    Args:
        questions: List of strings, or an array or column of them. Of chats a
            list of lists of messages `{"role": ..., "content": ...}`, in which
            the messages of the role `"assistant"` are learnt. Without
            `answers`, strings are plain texts, and learnt as a whole. For a
            model that hears, Moonshine, names of files of sounds, of any
            rate, or waves, arrays (samples,) at the rate of the model; what is
            said in them are the answers.
        answers: List of strings, as many, or `None`. Defaults to `None`.
        template: Function that writes a question as the model should read it,
            `lambda question: f"Question: {question} Type:"`; of chats a
            function from a list of messages to text, each longer list to the
            same and more. Defaults to `None`: a question as it stands.
        separator: String between a question and its answer, learnt with the
            answer. Most tokenisers have the blank before a word in the token
            of the word. Defaults to `" "`.
        sequence_length: Integer, the most tokens of a window. Defaults to
            `None`, that of the model's preprocessor.
        stride: Integer, tokens from one window of an example to the next,
            where it is longer than one. Each token is learnt, and judged,
            once, after as many before it as the first window with it has.
            Defaults to `None`, half of `sequence_length`.
        packing: Boolean, whether short examples share a window while training.
            Attention stays inside of each, and positions begin anew, where
            the blocks of the model take an attention mask; a warning says
            where they do not. Otherwise examples are sorted by length, and
            padded to that of their batch. Defaults to `False`.

    Returns:
        A `Prompts`, for `fine_tune` and `evaluate`. `data[:100]` are the first
        hundred examples.

    Raises:
        ValueError: If an argument does not fit, or a chat has no answer.

    Example:

    ```python
    import finetune_keras as ft

    data = ft.prompts(
        ["Who wrote Emma?", "How far is the moon?"], ["HUM", "NUM"],
        template=lambda question: f"Question: {question} Type:",
    )
    print(data.questions[0], "|", data.answers[0])
    chats = ft.prompts(
        [[{"role": "user", "content": "Hello"},
          {"role": "assistant", "content": "Good day"}]],
        template=lambda messages: "".join(
            f"{one['role']}: {one['content']}\\n" for one in messages
        ),
    )
    print(chats.questions, chats.answers)
    ```
    """
    check(
        sequence_length=(sequence_length, maybe(integer(4))),
        stride=(stride, maybe(integer(1))),
        packing=(packing, one_of(True, False)),
    )
    if sequence_length and stride and stride > sequence_length:
        raise ValueError(
            "`stride` must be at most `sequence_length`, or tokens between "
            f"two windows would be in none. Received: stride={stride}, "
            f"sequence_length={sequence_length}"
        )
    questions = _listed(questions)
    if _are_chats(questions):
        _check_alone(answers)
        examples = [_of_chat(chat, template) for chat in questions]
    elif _are_sounds(questions):
        examples = _of_sounds(questions, answers, template)
    elif answers is None:
        texts = _written(check_texts(questions), template)
        examples = [[(text, True)] for text in texts]
    else:
        examples = _of_pairs(questions, answers, template, separator)
    if not examples:
        raise ValueError("There is no example. Received: questions=[]")
    return Prompts(examples, sequence_length, stride, packing)


def _of_pairs(questions, answers, template, separator):
    questions = _written(check_texts(questions), template)
    answers = _as_many(questions, answers)
    empty = [i for i, text in enumerate(questions) if not text]
    if empty:
        raise ValueError(
            "A question must not be empty. Without questions, texts are "
            f"learnt as a whole: `ft.prompts(texts)`. Received: empty ones at "
            f"{empty[:5]}"
        )
    pairs = zip(questions, answers, strict=True)
    return [[(q, False), (separator + a, True)] for q, a in pairs]


def _as_many(questions, answers):
    answers = check_texts(_listed(answers))
    if len(questions) != len(answers):
        raise ValueError(
            "Each question needs one answer, in the same order. Received: "
            f"{len(questions)} questions and {len(answers)} answers"
        )
    return answers


def _are_sounds(questions):
    first = next(iter(questions), None)
    return isinstance(first, os.PathLike) or (
        len(getattr(first, "shape", ())) > 0 and not is_raw(first)
    )


def _of_sounds(sounds, answers, template):
    if answers is None or template is not None:
        raise ValueError(
            "Paths and arrays are sounds: they go with what is said in them, "
            "and without a template, `ft.prompts(files, transcripts)`; texts "
            "are lists of strings. Received: "
            f"{len(sounds)} sounds, answers={answers!r:.60}, "
            f"template={template!r}"
        )
    answers = _as_many(sounds, answers)
    pairs = zip(sounds, answers, strict=True)
    return [[(sound, False), (text, True)] for sound, text in pairs]


def _written(texts, template):
    return texts if template is None else check_texts(map(template, texts))


def _listed(texts):
    """Refuses one string where many are meant."""
    if isinstance(texts, (str, bytes, os.PathLike)):
        raise ValueError(
            "Questions and answers are lists of strings, here of one: "
            f"`[text]`. Received: {texts!r:.100}"
        )
    is_column = hasattr(texts, "dtype") or hasattr(texts, "iloc")
    return texts if is_column else list(texts)


# === Chats ===


def _are_chats(questions):
    first = questions[0] if isinstance(questions, list) and questions else None
    return isinstance(first, (list, tuple)) and all(
        isinstance(message, dict) for message in first
    )


def _check_alone(answers):
    if answers is not None:
        raise ValueError(
            "The answers of chats stand in them, as messages of the role "
            '"assistant". Leave `answers` out. Received: chats and '
            f"{len(answers)} answers"
        )


def _of_chat(messages, template):
    """Pieces of a chat: what the assistant says is learnt, and no more."""
    messages, pieces, done = list(messages), [], ""
    if template is None:
        raise ValueError(
            "Each model has its own form of a chat: pass it as `template`, a "
            "function from a list of messages to text, such as `lambda "
            "messages: ''.join(f\"<|im_start|>{m['role']}\\n{m['content']}"
            '<|im_end|>\\n" for m in messages)`. Received: template=None'
        )
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        whole = template(messages[: i + 1])
        silent = template([*messages[:i], {**message, "content": ""}])
        start = len(os.path.commonprefix([whole, silent]))
        if start < len(done) or not whole.startswith(done):
            raise ValueError(
                "`template` must write a longer chat as the shorter one and "
                f"more. Received: {whole!r:.200} after {done!r:.200}"
            )
        pieces += [(whole[len(done) : start], False), (whole[start:], True)]
        done = whole
    if not pieces:
        raise ValueError(
            'A chat to learn from has a message of the role "assistant". '
            f"Received: {messages!r:.300}"
        )
    return pieces
