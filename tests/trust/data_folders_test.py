"""Folders and files from a stranger: read what can be, run nothing."""

import io
import os
import socket
import subprocess
import threading

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

import finetune_keras as ft
from finetune_keras.data import image_check
from finetune_keras.data.images import load_image
from finetune_keras.data.walk import list_folder

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What is remembered of files does not leave the test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FINETUNE_KERAS_CACHE", str(folder))


@pytest.fixture
def insects(tmp_path):
    """A folder of two classes with six images each."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "insects"
    for name in ("ants", "bees"):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 255, (12, 10, 3)).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def ghostscript(monkeypatch):
    """Raises where a picture is given to another program."""

    def run(*args, **kwargs):
        raise AssertionError(f"A program was started: {args}")

    monkeypatch.setattr(subprocess, "check_call", run)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)


def read(folder):
    return ft.image_folder(folder, 8, verbose=0)


def within_seconds(work):
    """Runs `work`, and fails where it hangs."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.daemon = True
    thread.start()
    thread.join(60)
    assert results, "It hangs, or has failed."
    return results[0]


@pytest.mark.parametrize("name", ["a.eps", "a.jpg"])
def test_no_picture_is_given_to_ghostscript(name, insects, ghostscript):
    (insects / "ants" / name).write_bytes(EPS)
    data = read(insects)
    assert [bad for bad, _ in data.bad_files] == [f"ants/{name}"]
    assert sum(data.sizes.values()) == 12
    for source in (insects / "ants" / name, EPS):
        with pytest.raises(ValueError, match="JPEG, PNG, WEBP"):
            load_image(source, 8)


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "JPEG2000"])
def test_only_the_documented_formats_are_read(kind, insects):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, kind)
    (insects / "bees" / "odd.png").write_bytes(buffer.getvalue())
    assert read(insects).bad_files[0][0] == "bees/odd.png"
    with pytest.raises(ValueError, match="JPEG, PNG, WEBP"):
        load_image(buffer.getvalue(), 8)


@pytest.mark.parametrize("kind", image_check.FORMATS)
def test_all_documented_formats_are_read(kind, insects):
    Image.new("RGB", (16, 16), "red").save(insects / "bees" / "odd", kind)
    assert not read(insects).bad_files
    assert load_image(insects / "bees" / "odd", 4)[0, 0, 0] > 250


def test_a_link_to_itself_is_a_line(insects):
    (insects / "ants" / "loop").symlink_to("loop")
    (insects / "again").symlink_to("again")
    data = read(insects)
    assert [name for name, _ in data.bad_files] == ["ants/loop"]
    assert "levels of symbolic links" in data.bad_files[0][1]
    assert sum(data.sizes.values()) == 12


def test_an_unreadable_subfolder_is_a_line(insects, monkeypatch):
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    (insects / "ants" / "inner").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    data = read(insects)
    assert data.bad_files == [
        ("ants/inner", "cannot be read: Permission denied")
    ]
    assert "'ants/inner': cannot be read" in str(data)
    (insects / "inner").mkdir()
    with pytest.raises(ValueError, match="Give the rights to read it"):
        read(insects / "inner")


@pytest.mark.parametrize("odd", ["pipe", "device", "socket"])
def test_what_is_no_file_neither_hangs_nor_fills_the_memory(
    odd, insects, monkeypatch
):
    path = insects / "bees" / "odd.png"
    if odd == "pipe":
        os.mkfifo(path)
    elif odd == "device":
        path.symlink_to("/dev/zero")
    else:
        # The path of a socket must be short.
        monkeypatch.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    data = within_seconds(lambda: read(insects))
    (name, why), *others = data.bad_files
    assert name == "bees/odd.png" and odd in why and not others
    assert sum(data.sizes.values()) == 12
    for i in range(6):
        (insects / "ants" / f"{i}.txt").write_text(f"text {i}")
        (insects / "bees" / f"{i}.txt").write_text(f"other text {i}")
    texts = within_seconds(lambda: ft.text_folder(insects))
    assert odd in dict(texts.bad_files)["bees/odd.png"]
    table = {"path": [str(p) for p in insects.glob("*/*.png")], "label": []}
    table["label"] = [path.split("/")[-2] for path in table["path"]]
    table = within_seconds(
        lambda: ft.from_frame(table, "path", "label", image_size=8, verbose=0)
    )
    assert odd in dict(table.bad_files)[str(path)]
    assert odd in str(within_seconds(lambda: error_of(path)))


def error_of(path):
    with pytest.raises(ValueError) as caught:
        load_image(path, 8)
    return caught.value


def test_a_file_of_a_thousand_gigabytes_is_a_line(insects):
    with open(insects / "ants" / "big.png", "wb") as file:
        file.truncate(2**40)
    why = "cannot be read: it has 1,099,511,627,776 bytes"
    assert read(insects).bad_files == [("ants/big.png", why)]


def test_a_bomb_of_pixels_is_a_line(insects, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    Image.new("1", (100, 100)).save(insects / "ants" / "bomb.png")
    ((name, why),) = read(insects).bad_files
    assert name == "ants/bomb.png" and "too many pixels" in why


def test_a_diamond_of_links_is_walked_once(tmp_path):
    """Two links in each of 16 levels would be walked 65,536 times."""
    for i in range(16):
        level = tmp_path / f"level{i}"
        level.mkdir()
        for side in ("left", "right"):
            (level / side).symlink_to(tmp_path / f"level{i + 1}")
    (tmp_path / "level16").mkdir()
    (tmp_path / "level16" / "a.txt").write_text("one")
    found = list_folder(tmp_path)
    assert [name for name, *_ in found.files] == ["level16/a.txt"]
    assert len(found.problems) == 32
    assert found.problems[0] == (
        "level0/left",
        "not read again: the same folder as 'level1'",
    )


def test_a_link_to_what_holds_the_folder_is_not_followed(tmp_path):
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "outer" / "secret.txt").write_text("not asked for")
    (inner / "up").symlink_to("..")
    (inner / "root").symlink_to("/")
    found = list_folder(inner)
    assert not found.files
    assert [name for name, _ in found.problems] == ["root", "up"]


def test_a_link_to_a_folder_elsewhere_is_followed(insects, tmp_path):
    (insects / "ants").rename(tmp_path / "elsewhere")
    (insects / "ants").symlink_to(tmp_path / "elsewhere")
    data = read(insects)
    assert data.classes == ["ants", "bees"] and not data.bad_files
