import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.text.prompt_tokens import (
    as_prompts,
    buckets,
    token_rows,
    tokenize,
    window_arrays,
    windows_of,
)

QUESTIONS = ["is a", "is b?", "a b a: b"]
ANSWERS = ["yes", "no", "no b"]
CHAT = [
    {"role": "user", "content": "is a"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "is b"},
    {"role": "assistant", "content": "no"},
]


def chatted(messages):
    return "".join(f"{one['role']}: {one['content']}.\n" for one in messages)


def words(model, ids):
    tokenizer = model.preprocessor.tokenizer
    return [tokenizer.id_to_token(int(i)) for i in ids]


def test_pairs_are_a_question_and_its_answer():
    data = ft.prompts(QUESTIONS, np.array(ANSWERS), lambda q: f"q: {q}")
    assert data.have_questions and len(data) == 3
    assert data.examples[1] == [("q: is b?", False), (" no", True)]
    assert data.questions[2] == "q: a b a: b"
    assert data[1:].answers == ["no", "no b"]
    assert data[np.array([2, 0])].answers == ["no b", "yes"]
    assert not ft.prompts(QUESTIONS).have_questions


def test_of_chats_the_assistant_is_learnt():
    data = ft.prompts([CHAT], template=chatted)
    assert data.examples[0] == [
        ("user: is a.\nassistant: ", False),
        ("yes.\n", True),
        ("user: is b.\nassistant: ", False),
        ("no.\n", True),
    ]
    assert data.questions[0].endswith("user: is b.\nassistant: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "b"], ["c"]), "one answer"),
        ((["a", ""], ["c", "d"]), "must not be empty"),
        (("a", "b"), "lists of strings"),
        (([CHAT],), "form of a chat"),
        (([CHAT[:1]], None, chatted), "message of the role"),
        (([CHAT], ["yes"], chatted), "stand in them"),
        (([CHAT], None, lambda m: m[-1]["content"]), "longer chat"),
        (([],), "no example"),
    ],
)
def test_what_does_not_fit_is_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        ft.prompts(*arguments)
    with pytest.raises(ValueError, match="at most `sequence_length`"):
        ft.prompts(["a"], sequence_length=8, stride=9)


def test_tokens_are_those_that_generate_reads(small_writer):
    model = small_writer()
    data = ft.prompts(["is a", "is y"], ["yes b", "es"], separator=" ")
    one, _ = token_rows(model.preprocessor, data)
    end = "<|endoftext|>"
    assert words(model, one[0]) == [end, "is", "Ġa", "Ġyes", "Ġb", end]
    assert one[1].tolist() == [False] * 3 + [True] * 3
    prompt = model.preprocessor.generate_preprocess(["is a"], 6)
    np.testing.assert_array_equal(
        one[0][:3], np.array(prompt["token_ids"])[0, :3]
    )
    # "yes" is one token, and "is y" alone does not end in it.
    ((ids, learnt),) = token_rows(
        model.preprocessor, ft.prompts(["is y"], ["es"], separator="")
    )
    assert words(model, ids[learnt]) == ["e", "s", end]


def test_each_token_is_learnt_once(small_writer):
    model = small_writer(length=8)
    text = "a b yes no " * 6
    data = ft.prompts([text, "a"], stride=3)
    windows, owners = windows_of(model, data)
    whole = token_rows(model.preprocessor, data)[0][0]
    found = [ids[learnt] for ids, learnt in windows[:-1]]
    np.testing.assert_array_equal(np.concatenate(found), whole[1:])
    assert owners.tolist() == [0] * (len(windows) - 1) + [1]
    assert {len(ids) for ids, _ in windows[:-1]} == {9}
    # Of a long question the last window alone holds the answer.
    (one,), _ = windows_of(model, ft.prompts([text], ["no"]))
    assert len(one[0]) == 9 and one[1].tolist() == [False] * 7 + [True] * 2


def test_batches_tell_what_is_to_be_written(small_writer):
    model = small_writer()
    data = ft.prompts(QUESTIONS, ANSWERS)
    ((x, y, weights),) = tokenize(model, data).parts
    assert x["token_ids"].shape == (3, 8) and y.shape == (3, 3)
    assert weights.sum(axis=1).tolist() == [2, 2, 3]
    places = x["answer_positions"][2]
    ids = token_rows(model.preprocessor, data)[2][0]
    np.testing.assert_array_equal(y[2], ids[places + 1])
    np.testing.assert_array_equal(x["token_ids"][2], ids[:-1])
    assert x["padding_mask"].sum(axis=1).tolist() == [4, 5, 8]


def test_packed_windows_hold_all_and_are_full(small_writer):
    model = small_writer(length=16)
    data = ft.prompts(QUESTIONS * 6, ANSWERS * 6, packing=True)
    windows, _ = windows_of(model, data)
    loose = buckets(window_arrays([[one] for one in windows]), 4)
    full = tokenize(model, data, 4)
    assert sum(full.sizes) <= 8 < sum(loose.sizes)
    for both in zip(*map(learnt_of, (loose, full)), strict=True):
        np.testing.assert_array_equal(*both)
    x, _, _ = full.parts[0]
    last = np.diff(x["padding_mask"][0])
    assert set(last[last != 0]) - {1} <= {-x["padding_mask"][0].max()}


def learnt_of(found):
    """All tokens that are learnt, and those before them, sorted."""
    before, after = [], []
    for x, y, weights in found.parts:
        taken = np.take_along_axis(x["token_ids"], x["answer_positions"], 1)
        before.append(taken[weights > 0])
        after.append(y[weights > 0])
    return [np.sort(np.concatenate(part)) for part in (before, after)]


def test_texts_alone_and_pairs_are_prompts_too(small_writer):
    assert as_prompts((["a b", "b"],)).examples == [
        [("a b", True)],
        [("b", True)],
    ]
    assert as_prompts((["is a"], ["yes"])).answers == ["yes"]
    asked = {"decoder_text": ["yes"], "encoder_text": ["is a"]}
    batches = pytest.importorskip("tensorflow").data.Dataset
    for data in (asked, batches.from_tensor_slices(asked).batch(1)):
        assert as_prompts(data).questions == ["is a"]
        assert as_prompts(data).answers == ["yes"]
    with pytest.raises(ValueError, match="names that KerasHub gives"):
        as_prompts({"texts": ["a"], "answers": ["b"]})
    arrays = {"token_ids": np.ones((2, 3))}, np.ones((2, 3))
    assert as_prompts(arrays) is arrays
    with pytest.raises(ValueError, match="have no weights"):
        as_prompts((["a"], ["b"], np.ones(1)))
    model = small_writer()
    model.preprocessor = None
    with pytest.raises(ValueError, match="with a preprocessor"):
        tokenize(model, ft.prompts(["a"]))
