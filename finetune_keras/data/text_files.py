"""Text files with more than one label each: tagged words, answers."""

import json

import numpy as np


def read_conll(path, separator=None):
    """Reads sentences with a tag for each word.

    One word a line, with its tag in the last column; an empty line ends a
    sentence, and a line that begins with `-DOCSTART-` is left out. CoNLL-2003
    and WNUT-17 come so.

    Args:
        path: String, path of the file, in UTF-8.
        separator: String between the columns. Defaults to `None`, white
            space.

    Returns:
        `(sentences, tags)`: two lists of lists of strings.

    Raises:
        ValueError: If a line has no tag; the message gives its number.

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
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
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
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    if not isinstance(data, dict) or "data" not in data:
        raise ValueError(
            'The file must hold a dict with "data", a list of articles with '
            f'"paragraphs", as SQuAD has them. Received: path={str(path)!r}'
        )
    questions, contexts, spans, answers = [], [], [], []
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            context = paragraph["context"]
            for entry in paragraph["qas"]:
                questions.append(entry["question"])
                contexts.append(context)
                found = entry.get("answers") or []
                spans.append(_span(found, context, path))
                answers.append([answer["text"] for answer in found])
    return (questions, contexts), np.array(spans), answers


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
