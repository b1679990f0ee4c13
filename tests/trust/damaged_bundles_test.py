"""A damaged file gives one clear error, which names it and what to do."""

import json
import zipfile

import keras
import numpy as np
import pytest

import finetune_keras as ft

MEMBER = "finetune_keras.json"
X = np.linspace(-1, 1, 12).reshape(3, 4).astype("float32")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A small bundle, with what it answers to `X`."""
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3, activation="softmax")(inputs)
    path = tmp_path_factory.mktemp("bundle") / "animals.keras"
    classes = ["ant", "bee", "wasp"]
    ft.save_bundle(keras.Model(inputs, outputs), path, classes=classes)
    return path, ft.load_bundle(path).predict(X).labels


def members_of(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def write(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)


def with_facts(path, target, change):
    """Writes a copy whose facts a function has changed."""
    members = members_of(path)
    facts = json.loads(members[MEMBER])
    changed = change(facts)
    facts = facts if changed is None else changed
    write(target, {**members, MEMBER: json.dumps(facts)})


def assert_clear(error, path):
    """It names the file, and what to do."""
    text = str(error.value)
    assert str(path) in text and "Received" in text
    assert any(w in text for w in ("Write it anew", "Install", "is damaged"))


ABSENT = object()
VALUES = [
    ABSENT, None, True, -1, 0, 3, 1.5, "", "wasp", [], ["ant"], {}, {"a": 1},
    ["ant", "bee", 3], [["ant"], ["bee"], ["wasp"]], ["ant"] * 3, [2, 2],
    [10**9, 10**9], 10**9,
]  # fmt: skip
NAMES = [
    "format", "classes", "task", "from_logits", "image_size", "features",
    "crop_to_aspect_ratio", "data", "plan", "environment",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_damage_to_a_fact_is_told_or_does_no_harm(name, bundle, tmp_path):
    path, labels = bundle
    refused = 0
    for number, value in enumerate(VALUES):
        target = tmp_path / f"{number}.keras"

        def change(facts, value=value):
            facts[name] = value
            if value is ABSENT:
                del facts[name]

        with_facts(path, target, change)
        try:
            loaded = ft.load_bundle(target)
        except ValueError:
            with pytest.raises(ValueError) as caught:
                ft.load_bundle(target)
            assert_clear(caught, target)
            refused += 1
            continue
        # What was let in works.
        found = loaded.predict(X).labels
        if name not in ("classes", "task", "from_logits"):
            assert found == labels, value
    assert refused >= 10


def test_facts_of_another_shape_are_told(bundle, tmp_path):
    for facts in ([], "facts", 3, None, [1], True):
        target = tmp_path / "other.keras"
        members = members_of(bundle[0])
        write(target, {**members, MEMBER: json.dumps(facts)})
        with pytest.raises(ValueError) as caught:
            ft.load_bundle(target)
        assert_clear(caught, target)


def test_a_bundle_of_a_newer_format_says_what_to_install(bundle, tmp_path):
    target = tmp_path / "newer.keras"
    with_facts(bundle[0], target, lambda facts: {**facts, "format": 999})
    with pytest.raises(ValueError, match="format 999.*Install a newer one"):
        ft.load_bundle(target)


def test_text_that_is_no_json_is_told(bundle, tmp_path):
    members = members_of(bundle[0])
    for text in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b"nonsense"):
        target = tmp_path / "text.keras"
        write(target, {**members, MEMBER: text})
        with pytest.raises(ValueError) as caught:
            ft.load_bundle(target)
        assert_clear(caught, target)


def test_a_bundle_that_is_cut_off_or_changed_is_told(bundle, tmp_path):
    data = bundle[0].read_bytes()
    target = tmp_path / "cut.keras"
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        target.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ValueError) as caught:
            ft.load_bundle(target)
        assert_clear(caught, target)
    # Each member by itself: its bytes are not what its checksum says.
    with zipfile.ZipFile(bundle[0]) as file:
        starts = [part.header_offset for part in file.infolist()]
    for start in starts:
        changed = bytearray(data)
        for place in range(start + 60, start + 90):
            changed[place] ^= 0xFF
        target.write_bytes(changed)
        try:
            assert ft.load_bundle(target).predict(X).labels == bundle[1]
        except ValueError:
            with pytest.raises(ValueError) as caught:
                ft.load_bundle(target)
            assert_clear(caught, target)


def test_a_damaged_model_inside_is_told(bundle, tmp_path):
    members = members_of(bundle[0])
    target = tmp_path / "model.keras"
    for name in ("config.json", "model.weights.h5"):
        for data in (b"", b"{}", members[name][: len(members[name]) // 2]):
            write(target, {**members, name: data})
            with pytest.raises(ValueError) as caught:
                ft.load_bundle(target)
            assert_clear(caught, target)
        write(target, {k: v for k, v in members.items() if k != name})
        with pytest.raises(ValueError) as caught:
            ft.load_bundle(target)
        assert_clear(caught, target)


def test_a_small_file_does_not_fill_the_memory(bundle, tmp_path):
    members = members_of(bundle[0])
    target = tmp_path / "bomb.keras"
    bomb = {**members, "assets/zeros": bytes(100 * 2**20)}
    write(target, bomb, zipfile.ZIP_DEFLATED)
    assert target.stat().st_size < 2**20
    with pytest.raises(ValueError, match="would expand to") as caught:
        ft.load_bundle(target)
    assert_clear(caught, target)


def test_a_bundle_that_someone_compressed_is_read(bundle, tmp_path):
    target = tmp_path / "small.keras"
    write(target, members_of(bundle[0]), zipfile.ZIP_DEFLATED)
    assert ft.load_bundle(target).predict(X).labels == bundle[1]


def test_a_bundle_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.keras"):
        ft.load_bundle(tmp_path / "nothing.keras")
