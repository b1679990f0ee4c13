"""Text files with more than one label each: tagged words, answers."""

import io
import json

import numpy as np

from finetune_keras.data.decoding import read_text


def read_conll(path, separator=None, encoding=None):
    """Reads sentences with a tag for each word.

    One word a line, with its tag in the last column; an empty line ends a
    sentence, and a line that begins with `-DOCSTART-` is left out. CoNLL-2003
    and WNUT-17 come so.

    Args:
        path: String, path of the file.
        separator: String between the columns. Defaults to `None`, white
            space.
        encoding: String, such as `"latin-1"`. Defaults to `None`: UTF-8, or
            what the file begins with.

    Returns:
        `(sentences, tags)`: two lists of lists of strings.

    Raises:
        ValueError: If a line has no tag or is of another encoding; the message
            gives its number.

    Example:

    ```python
    import finetune_keras as ft

    with open("train.conll", "w", encoding="utf-8") as file:
        file.write("Ann B-person\\nsleeps O\\n\\nBob B-person\\n")
    sentences, tags = ft.read_conll("train.conll")
    print(sentences, tags)
    ```
    """
    sentences, tags = [[]], [[]]
    lines = io.StringIO(read_text(path, encoding), newline=None)
    for number, line in enumerate(lines, start=1):
        if line.startswith("-DOCSTART-"):
            continue
        columns = line.strip().split(separator)
        if columns in ([], [""]):
            sentences.append([])
            tags.append([])
        elif len(columns) < 2:
            raise ValueError(
                "Each line must hold a word and its tag. Received: "
                f"{line.strip()!r} in line {number} of {str(path)!r}"
            )
        else:
            sentences[-1].append(columns[0])
            tags[-1].append(columns[-1])
    return [s for s in sentences if s], [t for t in tags if t]


def read_squad(path):
    """Reads questions, the texts that answer them, and the answers.

    Args:
        path: String, path of a JSON file in the form of SQuAD 1.1 or 2.0.

    Returns:
        `(x, y, answers)`: `x` is `(questions, contexts)`, two lists of
        strings; `y` an integer array of shape (questions, 2), the characters
        at which the first answer to each starts and ends, -1 where there is
        none; `answers` a list of lists of strings, all accepted answers.

    Raises:
        ValueError: If the file is of another form, or an answer does not stand
            where the file says.

    Example:

    ```python
    import json, finetune_keras as ft

    answer = {"text": "Ann", "answer_start": 0}
    question = {"question": "Who ran?", "answers": [answer]}
    paragraph = {"context": "Ann ran.", "qas": [question]}
    with open("train.json", "w", encoding="utf-8") as file:
        json.dump({"data": [{"paragraphs": [paragraph]}]}, file)
    x, y, answers = ft.read_squad("train.json")
    print(x, y, answers)
    ```
    """
    text = read_text(path)
    try:
        rows = list(_rows(json.loads(text), path))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        lines = "Extra data" in str(error)
        found = "JSON Lines, an object a line" if lines else repr(error)
        raise ValueError(
            'The file must hold one object with "data", a list of articles as '
            'SQuAD has them: {"data": [{"paragraphs": [{"context": "...", '
            '"qas": [{"question": "...", "answers": [{"text": "...", '
            '"answer_start": 0}]}]}]}]}. Questions of another form go to '
            "`fine_tune` as lists, ((questions, contexts), spans). "
            f"Received: path={str(path)!r}, with {found}"
        ) from error
    questions, contexts, spans, answers = map(
        list, zip(*rows, strict=True) if rows else ([],) * 4
    )
    return (questions, contexts), np.array(spans), answers


def _rows(data, path):
    """Yields question, context, span and accepted answers of each question."""
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            context = paragraph["context"]
            for entry in paragraph["qas"]:
                found = entry.get("answers") or []
                span = _span(found, context, path)
                texts = [answer["text"] for answer in found]
                yield entry["question"], context, span, texts


def _span(answers, context, path):
    if not answers:
        return -1, -1
    start, text = answers[0]["answer_start"], answers[0]["text"]
    end = start + len(text)
    if context[start:end] != text:
        raise ValueError(
            f"The answer {text!r} does not stand at character {start} of its "
            f"context, but {context[start:end]!r}. "
            f"Received: path={str(path)!r}"
        )
    return start, end
