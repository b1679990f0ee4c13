import io
import os
import random
import sys
import time

import numpy as np
import pytest
from PIL import Image

from finetune_keras.data import check_pool, image_check
from finetune_keras.data.files import check_images
from finetune_keras.data.image_check import check_image
from finetune_keras.data.images import load_image
from finetune_keras.data.manifest import Manifest
from finetune_keras.data.walk import list_folder


def photo(seed=0, mode="RGB", size=(70, 50)):
    """Smooth enough to be small as JPEG, rough enough for many bytes."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (5, 7, 3)).astype("uint8")
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    noise = rng.integers(-20, 20, (size[1], size[0], 3))
    pixels = np.clip(np.asarray(image) + noise, 0, 255).astype("uint8")
    return Image.fromarray(pixels).convert(mode)


def encoded(image_format="JPEG", mode="RGB", seed=0, **options):
    buffer = io.BytesIO()
    photo(seed, mode).save(buffer, image_format, **options)
    return buffer.getvalue()


def check(folder, verbose=0):
    return check_images(str(folder), list_folder(folder).files, verbose)


def problem_of(tmp_path, data, name="file.jpg"):
    (tmp_path / name).write_bytes(data)
    return check_image(str(tmp_path / name))[3]


FORMATS = [
    ("JPEG", "RGB", {}),
    ("JPEG", "RGB", {"progressive": True}),
    ("JPEG", "RGB", {"subsampling": 0, "quality": 95}),
    ("JPEG", "RGB", {"restart_marker_blocks": 4}),
    ("JPEG", "L", {}),
    ("JPEG", "CMYK", {}),
    ("PNG", "RGB", {}),
    ("PNG", "P", {}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGB", {"lossless": True}),
    ("BMP", "RGB", {}),
    ("GIF", "P", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(("image_format", "mode", "options"), FORMATS)
def test_a_file_cut_anywhere_is_found(image_format, mode, options, tmp_path):
    data = encoded(image_format, mode, **options)
    assert problem_of(tmp_path, data) is None
    draw = random.Random(0)
    cuts = [*range(1, 70), *(draw.randrange(1, len(data)) for _ in range(40))]
    # These hold no pixel: the padding of a row, the sign of the end.
    least = {"BMP": 2, "GIF": 4}.get(image_format, 0)
    missed = [
        cut
        for cut in cuts
        if cut > least and problem_of(tmp_path, data[:-cut]) is None
    ]
    assert missed == []


@pytest.mark.parametrize(
    ("image_format", "mode", "options"), [FORMATS[0], FORMATS[1], FORMATS[6]]
)
def test_a_file_of_the_right_size_with_zeros_at_its_end(
    image_format, mode, options, tmp_path
):
    """What a broken download leaves behind."""
    data = encoded(image_format, mode, **options)
    for share in (0.3, 0.7, 0.95):
        kept = data[: int(len(data) * share)]
        broken = kept + bytes(len(data) - len(kept))
        assert problem_of(tmp_path, broken) is not None


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(("image_format", "mode", "options"), FORMATS)
def test_what_passes_loads(image_format, mode, options, tmp_path):
    """Whatever is wrong with a file: it is refused, or it can be read."""
    data = encoded(image_format, mode, **options)
    draw = random.Random(5)
    passed = 0
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(draw.choice((1, 3, 30))):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        if problem_of(tmp_path, broken) is None:
            load_image(tmp_path / "file.jpg", 16)
            passed += 1
    assert passed < 60


def test_bytes_after_the_end_are_no_problem(tmp_path):
    """Phones append films to their photos."""
    data = encoded() + random.Random(1).randbytes(5000)
    assert problem_of(tmp_path, data) is None


def test_an_end_in_the_thumbnail_is_not_the_end(tmp_path):
    image = photo()
    exif = Image.Exif()
    exif[0x010E] = b"\xff\xda\xff\xd9".decode("latin-1") * 5
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif, comment=b"\xff\xda\xff\xd9")
    data = buffer.getvalue()
    assert problem_of(tmp_path, data) is None
    assert problem_of(tmp_path, data[:-2]) == "truncated"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty, 0 bytes"),
        (b"just a text", "not an image"),
        (b"\xff\xd8\xff\xe0\x00", "truncated or damaged"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        (encoded()[:300], "truncated"),
    ],
)
def test_reasons(data, reason, tmp_path):
    assert problem_of(tmp_path, data).startswith(reason)


def test_modes_of_unknown_range_are_refused_by_name(tmp_path):
    for dtype, mode in (("float32", "F"), ("int32", "I")):
        path = tmp_path / "file.tif"
        Image.fromarray(np.ones((4, 5), dtype)).save(path)
        assert check_image(str(path))[3].startswith(f"mode {mode}")
        with pytest.raises(ValueError, match=f"mode {mode}"):
            load_image(path, 8)


def test_notes_on_what_is_converted(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(mode="CMYK"))
    sixteen = Image.fromarray(np.full((9, 8), 40000, "uint16"))
    sixteen.save(tmp_path / "b.png")
    frames = [photo(i, "P") for i in range(3)]
    frames[0].save(tmp_path / "c.gif", save_all=True, append_images=frames[1:])
    found = {c.name: (c.problem, c.note) for c in check(tmp_path)}
    assert found == {
        "a.jpg": (None, "CMYK, converted to RGB"),
        "b.png": (None, "16-bit, scaled to 8 bits"),
        "c.gif": (None, "3 frames, the first is used"),
    }


def test_too_many_pixels_have_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "too many pixels" in problem_of(tmp_path, encoded())


@pytest.mark.parametrize(
    "name",
    ["a\nb.jpg", "grüße 漢字.jpg", "no_suffix", "'\".JPG", b"caf\xe9.jpg"],
)
def test_names(name, tmp_path):
    path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
    with open(path, "wb") as file:
        file.write(encoded())
    for _ in range(2):
        (found,) = check(tmp_path)
        assert (found.name, found.problem) == (os.fsdecode(name), None)
        assert (found.width, found.height) == (70, 50)


def test_the_listing_follows_links_but_no_circles(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").write_bytes(encoded())
    (tmp_path / "real" / ".hidden").write_text("")
    (tmp_path / "real" / "Thumbs.db").write_text("")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    names = [name for name, _, _ in list_folder(tmp_path).files]
    assert names[0] == "broken.jpg"
    assert names[1:] == ["real/a.jpg"]
    assert not any("hidden" in n or "Thumbs" in n for n in names)
    checks = {c.name: c.problem for c in check(tmp_path)}
    assert checks["broken.jpg"].startswith("cannot be read: No such file")


def test_orientation_turns_the_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo().save(tmp_path / "a.jpg", exif=exif)
    (found,) = check(tmp_path)
    assert (found.width, found.height) == (50, 70)


# === In parallel ===


def many(folder):
    for i in range(90):
        (folder / f"{i}\n{i % 7}\u00e9.jpg").write_bytes(encoded(seed=i))
    (folder / "cut.jpg").write_bytes(encoded()[:-40])
    (folder / "text.jpg").write_bytes(b"text")
    return [str(folder / name) for name, _, _ in list_folder(folder).files]


def test_other_processes_find_the_same(tmp_path, monkeypatch):
    paths = many(tmp_path)
    expected = [check_image(path) for path in paths]
    monkeypatch.setattr(check_pool, "_FEW", 1)
    monkeypatch.setattr(check_pool, "_CHUNK", 4)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    # Here nothing is checked until another process has answered.
    here, real = [], check_pool._check_here
    waited = []

    def slow(chunk):
        waited.append(time.sleep(0.3 if not waited else 0))
        here.extend(chunk)
        return real(chunk)

    monkeypatch.setattr(check_pool, "_check_here", slow)
    counts = []
    assert check_pool.check_all(paths, counts.append) == expected
    assert len(here) < len(paths)
    assert counts == sorted(counts) and counts[-1] == len(paths)


def test_a_process_that_dies_loses_nothing(tmp_path, monkeypatch):
    paths = many(tmp_path)
    expected = [check_image(path) for path in paths]
    monkeypatch.setattr(check_pool, "_FEW", 1)
    monkeypatch.setattr(check_pool, "_CHUNK", 4)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for program in ("/no/such/python", "/bin/false"):
        monkeypatch.setattr(sys, "executable", program)
        assert check_pool.check_all(paths, lambda count: None) == expected


# === What is remembered ===


def test_unchanged_files_are_not_read_again(tmp_path, monkeypatch):
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_bytes(encoded(seed=i))
    (tmp_path / "4.jpg").write_bytes(b"text")
    first = check(tmp_path)
    read = []
    real = image_check.check_image
    monkeypatch.setattr(
        image_check, "check_image", lambda path: read.append(path) or real(path)
    )
    assert check(tmp_path) == first
    assert read == []
    (tmp_path / "2.jpg").write_bytes(encoded(seed=9))
    os.utime(tmp_path / "3.jpg", ns=(1, 1))
    again = check(tmp_path)
    assert sorted(map(os.path.basename, read)) == ["2.jpg", "3.jpg"]
    assert again[2].digest != first[2].digest
    assert again[3] == first[3]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 0, "files": {}}', '{"version": 2}']
    + ['{"version": 2, "files": {"a.jpg": [1]}}'],
)
def test_a_broken_manifest_is_made_anew(text, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded())
    expected = check(tmp_path)
    manifest = Manifest(str(tmp_path))
    with open(manifest.path, "w") as file:
        file.write(text)
    assert check(tmp_path) == expected
    assert list(Manifest(str(tmp_path)).entries) == ["a.jpg"]


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(encoded())
    monkeypatch.setenv("FINETUNE_KERAS_CACHE", str(tmp_path / "a.jpg" / "x"))
    assert check(tmp_path)[0].problem is None
    assert check(tmp_path)[0].problem is None


def test_no_part_of_a_file_is_left_in_the_cache(tmp_path, own_cache):
    (tmp_path / "a.jpg").write_bytes(encoded())
    check(tmp_path)
    found = [p.name for p in own_cache.rglob("*") if p.is_file()]
    assert len(found) == 1 and found[0].endswith(".json")


def test_progress_is_shown_once_and_can_be_silenced(tmp_path, capfd):
    (tmp_path / "a.jpg").write_bytes(encoded())
    check(tmp_path, verbose=0)
    assert capfd.readouterr() == ("", "")
    (tmp_path / "b.jpg").write_bytes(encoded(seed=1))
    check(tmp_path, verbose=1)
    assert "1/1" in capfd.readouterr().out
    check(tmp_path, verbose=1)
    assert capfd.readouterr().out == ""
