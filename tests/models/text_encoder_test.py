import numpy as np
import pytest

from finetune_keras.models import text_encoder
from finetune_keras.models.text_encoder import TextEncoder, is_raw
from finetune_keras.text.answer_encoder import AnswerEncoder
from finetune_keras.text.mask_encoder import MaskEncoder
from finetune_keras.text.tag_encoder import TagEncoder

hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
PIECES = "<s> <pad> </s> <unk> <mask> a b c Ġ ab Ġa Ġb Ġab".split()


@pytest.fixture
def bert(small_bert):
    return small_bert[1]


@pytest.fixture
def roberta():
    vocabulary = {piece: i for i, piece in enumerate(PIECES)}
    return hub.tokenizers.RobertaTokenizer(vocabulary, ["a b", "Ġ a", "Ġ b"])


def check_against_hub(tokenizer, preprocessor, texts, length):
    encoder = TextEncoder(tokenizer, length)
    found, lengths = encoder.encode(texts)
    # With labels, or KerasHub takes a pair for a text and its labels.
    expected, _ = preprocessor(tokenizer, sequence_length=length)(
        texts, y=[0] * len(lengths)
    )
    width = found["token_ids"].shape[1]
    for name in expected:
        whole = np.asarray(expected[name])
        if name == "segment_ids":
            # What stands for padding differs, and is masked.
            whole = whole * np.asarray(expected["padding_mask"])
        np.testing.assert_array_equal(whole[:, :width], found[name])
    np.testing.assert_array_equal(
        np.asarray(expected["padding_mask"]).sum(axis=1), lengths
    )


TEXTS = ["A good film.", "", "bad " * 30, "Café 好电影 🙂 unseen", "a\n\nbad"]
PAIRS = TEXTS, ["not very good " * 9, "bad", "good " * 30, "", "film?"]


@pytest.mark.parametrize("texts", [TEXTS, PAIRS], ids=["single", "pairs"])
def test_bert_is_packed_as_kerashub_does(bert, texts):
    kind = hub.models.BertTextClassifierPreprocessor
    check_against_hub(bert, kind, texts, 16)


@pytest.mark.parametrize(
    "texts", [["a b ab", "b"], (["a", "a b"], ["b", "a b a"])]
)
def test_roberta_is_packed_as_kerashub_does(roberta, texts):
    kind = hub.models.RobertaTextClassifierPreprocessor
    check_against_hub(roberta, kind, texts, 12)


@pytest.mark.parametrize("kind", ["DistilBert", "Electra"])
def test_word_piece_families(kind):
    from tests.conftest import WORDS

    tokenizer = getattr(hub.tokenizers, f"{kind}Tokenizer")(
        WORDS, lowercase=True
    )
    found, _ = TextEncoder(tokenizer, 16).encode(["a good film"])
    bert = hub.tokenizers.BertTokenizer(WORDS, lowercase=True)
    expected, _ = TextEncoder(bert, 16).encode(["a good film"])
    np.testing.assert_array_equal(found["token_ids"], expected["token_ids"])


@pytest.mark.parametrize("kind", ["Albert", "DebertaV3"])
def test_sentence_piece_families(kind, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    import io

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a good film was bad", "bad films, very bad"]),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        pad_piece="<pad>" if kind == "Albert" else "[PAD]",
        unk_piece="<unk>" if kind == "Albert" else "[UNK]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        user_defined_symbols="[MASK]",
    )
    tokenizer = getattr(hub.tokenizers, f"{kind}Tokenizer")(model.getvalue())
    kind = getattr(hub.models, f"{kind}TextClassifierPreprocessor")
    check_against_hub(tokenizer, kind, ["a good film", "bad"], 16)


def test_many_texts_are_tokenised_in_parallel_to_the_same_ids(
    bert, roberta, monkeypatch
):
    odd = ["a\tgood\r\nfilm\0bad", "🙂‮ مرحبا 好", "Café", "", "x" * 300]
    many = [*TEXTS, *odd, *(f"bad {i} films!" for i in range(200))]
    # A real byte-pair vocabulary has all bytes; this one has three letters.
    few = ["a b ab", "", "ba", "b a"] * 50
    for tokenizer, texts in ((bert, many), (roberta, few)):
        encoder = TextEncoder(tokenizer, 16)
        expected = encoder.token_ids(texts)
        with monkeypatch.context() as patch:
            patch.setattr(text_encoder, "MANY", 10)
            assert encoder.token_ids(texts) == expected
        assert any(expected)


def test_bad_texts_are_named(bert):
    encoder = TextEncoder(bert, 16)
    with pytest.raises(ValueError, match="None of type NoneType at position 1"):
        encoder.encode(["good", None])
    with pytest.raises(ValueError, match="3.5 of type float at position 0"):
        encoder.encode([3.5])
    with pytest.raises(ValueError, match="2 and 1"):
        encoder.encode((["a", "a"], ["a"]))
    with pytest.raises(ValueError, match="at least 4"):
        TextEncoder(bert, 3)


def test_odd_texts(bert):
    encoder = TextEncoder(bert, 16)
    odd = ["", " ", "good " * 20000, "x" * 100000, "🙂‮ مرحبا 好", b"good"]
    found, lengths = encoder.encode(odd)
    assert found["token_ids"].shape == (6, 16)
    assert list(lengths[:2]) == [2, 2]
    np.testing.assert_array_equal(found["token_ids"][5, :4], [2, 6, 3, 0])


def test_labels_by_name(bert):
    encoder = TextEncoder(bert, 16, ["neg", "pos"])
    np.testing.assert_array_equal(encoder.labels(["pos", "neg"]), [1, 0])
    np.testing.assert_array_equal(encoder.labels([1, 0, 1]), [1, 0, 1])
    with pytest.raises(ValueError, match="'maybe'"):
        encoder.labels(["pos", "maybe"])


def test_raw_texts_are_told_from_arrays():
    assert is_raw("text") and is_raw(["a", "b"]) and is_raw((["a"], ["b"]))
    assert is_raw(np.array(["a"])) and is_raw([["word", "word"]])
    assert is_raw([None, "a"]) and is_raw(np.array(["a"], dtype=object))
    assert not is_raw({"token_ids": np.zeros((2, 3))})
    assert not is_raw(np.zeros((2, 3))) and not is_raw([np.zeros(3)] * 2)


# === Tags ===


def test_tags_stand_on_first_parts_of_words(bert):
    encoder = TagEncoder(bert, 16, ["O", "B-p"])
    sentences = [["Ann", "films", "Paris"], ["badly"]]
    tags = [["B-p", "O", "B-p"], [0]]
    x, lengths, (labels, weights) = encoder.prepare(sentences, tags)
    # [CLS] ann film ##s paris [SEP]; [CLS] bad ##ly [SEP]
    np.testing.assert_array_equal(lengths, [6, 4])
    np.testing.assert_array_equal(
        weights, [[0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(labels[0], [0, 1, 0, 0, 1, 0])
    outputs = np.zeros((2, 6, 2)) + [0.6, 0.4]
    outputs[0, 4] = [0.1, 0.9]
    assert encoder.finish(outputs, sentences) == [["O", "O", "B-p"], ["O"]]


def test_long_sentences_keep_a_tag_for_each_word(bert):
    encoder = TagEncoder(bert, 6, ["O", "B-p"])
    x, _, (_, weights) = encoder.prepare([["good"] * 9], [["B-p"] * 9])
    assert x["token_ids"].shape == (1, 6) and weights.sum() == 4
    outputs = np.zeros((1, 6, 2)) + [0.4, 0.6]
    assert encoder.finish(outputs, [["good"] * 9]) == [["B-p"] * 4 + ["O"] * 5]


def test_words_without_a_token_are_unknown(bert):
    x, _, (_, weights) = TagEncoder(bert, 8, ["O", "B"]).prepare(
        [["\u200b", "good"]], [["O", "B"]]
    )
    assert weights.sum() == 2
    assert x["token_ids"][0, 1] == 1  # [UNK]


def test_byte_pairs_know_the_middle_of_a_word(roberta):
    x, _, _ = TagEncoder(roberta, 8, ["O", "B"]).prepare([["ab", "b"]])
    pieces = [PIECES[i] for i in x["token_ids"][0]]
    assert pieces[1].startswith("Ġ") and pieces[-2] == "Ġb"


def test_bad_tags(bert):
    encoder = TagEncoder(bert, 8, ["O", "B"])
    with pytest.raises(ValueError, match="2 words and 1 tags in sentence 0"):
        encoder.prepare([["a", "a"]], [["O"]])
    with pytest.raises(ValueError, match="sentence 0"):
        encoder.prepare([["a"]], [["X"]])
    with pytest.raises(ValueError, match="'O' stands twice"):
        TagEncoder(bert, 8, ["O", "O"])


# === Answers ===


def test_windows_cover_a_long_context_and_find_the_answer(bert):
    context = "good " * 20 + "Ann ran " + "bad " * 20
    encoder = AnswerEncoder(bert, 16, stride=4)
    start = context.index("Ann")
    data = (["who ran?"], [context])
    x, lengths, (positions,) = encoder.prepare(data, [(start, start + 3)])
    assert max(lengths) == 16 and len(x["token_ids"]) > 4
    ann = 15
    places = {p for p in map(tuple, positions)}
    assert (0, 0) in places and len(places) > 1
    for row, (first, last) in zip(x["token_ids"], positions, strict=True):
        if first:
            assert first == last and row[first] == ann
        else:
            assert ann not in row[x["segment_ids"][0].argmax() :]
    # The context is allowed, the question and the padding are not.
    np.testing.assert_array_equal(x["allowed"][:, 1:5], 0)
    np.testing.assert_array_equal(x["allowed"][:, 0], 1)


def test_the_best_span_of_all_windows_is_the_answer(bert):
    context = "good " * 12 + "Ann ran " + "bad " * 12
    encoder = AnswerEncoder(bert, 16, stride=4)
    data = (["who ran?"], [context])
    start = context.index("Ann")
    x, _, (positions,) = encoder.prepare(data, [(start, start + 7)])
    outputs = np.full((len(positions), 2, 16), 1e-3)
    for row, (first, last) in zip(outputs, positions, strict=True):
        row[0, first], row[1, last] = 0.9, 0.8
    (answer,) = encoder.finish(outputs, data)
    assert answer["text"] == "Ann ran"
    assert (answer["start"], answer["end"]) == (start, start + 7)
    assert answer["score"] == pytest.approx(0.72)


def test_answers_never_end_before_they_start(bert):
    data = (["who?"], ["Ann ran badly"])
    encoder = AnswerEncoder(bert, 16)
    x, _, _ = encoder.prepare(data)
    outputs = np.full((1, 2, 16), 1e-3)
    first = int(np.flatnonzero(x["allowed"][0])[1])
    outputs[0, 0, first + 1] = outputs[0, 1, first] = 0.9
    (answer,) = encoder.finish(outputs, data)
    assert answer["start"] <= answer["end"] and answer["text"]


@pytest.mark.parametrize("text", ["", "好电影。", "a, (b)! c's"])
def test_offsets_lead_back_to_the_text(bert, text):
    encoder = AnswerEncoder(bert, 32)
    (window,) = encoder._windows(["who"], [text])
    for start, end in zip(window.starts, window.ends, strict=True):
        assert text[start:end].strip() == text[start:end] != ""
    plain = TextEncoder(bert, 32).token_ids([text])[0]
    assert window.ids[window.first : -1] == plain


def test_bad_questions(bert):
    encoder = AnswerEncoder(bert, 16)
    with pytest.raises(ValueError, match="tuple"):
        encoder.prepare(["who"])
    with pytest.raises(ValueError, match="1 questions and 2"):
        encoder.prepare((["who"], ["a", "b"]))
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        encoder.prepare((["who"], ["a"]), [3])
    with pytest.raises(ValueError, match="stride"):
        AnswerEncoder(bert, 16, stride=8)


# === Masks ===


def test_masks_are_drawn_anew_and_only_on_words(bert):
    encoder = MaskEncoder(bert, 32, mask_rate=0.25)
    texts = ["good film very bad film is not a good film ! ?"] * 40 + [""]
    x, lengths, (original, weights) = encoder.prepare(texts)
    plain, _ = TextEncoder(bert, 32).encode(texts)
    assert weights.sum() == 40 * 3
    changed = x["token_ids"] != plain["token_ids"]
    share = changed.sum() / weights.sum()
    assert 0.75 < share < 0.97
    assert not changed[:, 0].any() and not changed[40].any()
    np.testing.assert_array_equal(
        np.take_along_axis(plain["token_ids"], x["mask_positions"], 1)[:40],
        original[:40],
    )
    again, _, _ = encoder.prepare(texts)
    assert (again["mask_positions"] != x["mask_positions"]).any()
    masked = (x["token_ids"] == 4).sum() / weights.sum()
    assert 0.65 < masked < 0.95
