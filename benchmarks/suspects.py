"""What `ft.inspect` finds of faults that were put into photos.

For each data set it puts a copy of each photo into another split: smaller (0.5
to 0.9 of the size), compressed again (JPEG of quality 40 to 80), mirrored, all
of these, or cut to 90 %, in turns. It prints the share of copies that are
found, and of photos without another copy that are called one; the share of
labels, where 5 % were changed, that are among the first 10 % of suspects, and
among those that are listed; and the share of 10 photos of the next set that
are listed as unlike all others.

    python benchmarks/suspects.py --weights FILE FOLDER FOLDER ...

A FOLDER holds CLASS/*.jpg; the file is the official notop file of MobileNet
0.25.
"""

import argparse
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from PIL import Image, ImageOps

import finetune_keras as ft
from finetune_keras.data.table import format_table

SHAPE = (160, 160, 3)
KINDS = ("resized", "compressed", "mirrored", "all three", "cut")


def altered(image, kind, rng):
    """A copy of a photo, and its quality as JPEG."""
    quality = 90
    if kind in ("resized", "all three"):
        size = np.round(np.array(image.size) * rng.uniform(0.5, 0.9))
        image = image.resize([int(n) for n in size])
    if kind in ("compressed", "all three"):
        quality = int(rng.integers(40, 81))
    if kind in ("mirrored", "all three"):
        image = ImageOps.mirror(image)
    if kind == "cut":
        width, height = (round(0.9 * n) for n in image.size)
        left = int(rng.integers(image.width - width + 1))
        upper = int(rng.integers(image.height - height + 1))
        image = image.crop((left, upper, left + width, upper + height))
    return image, quality


def with_copies(folder, target, rng):
    """Writes photos as training data and their copies as test data."""
    for i, path in enumerate(sorted(folder.glob("*/*.jpg"))):
        for split in ("train", "test"):
            (target / split / path.parent.name).mkdir(
                parents=True, exist_ok=True
            )
        place = pathlib.Path(path.parent.name, path.name)
        (target / "train" / place).write_bytes(path.read_bytes())
        kind = KINDS[i % len(KINDS)]
        with Image.open(path) as image:
            copy, quality = altered(image.convert("RGB"), kind, rng)
        copy.save(target / "test" / place, quality=quality)


def read(folder, **options):
    return ft.image_folder(folder, SHAPE[:2], verbose=0, **options)


def of_copies(backbone, folder, rng):
    """Shares of copies found by kind, and of photos that are none."""
    with tempfile.TemporaryDirectory() as target:
        with_copies(folder, pathlib.Path(target), rng)
        data = read(target, validation_split=0)
        rows = ft.inspect(data, backbone, verbose=0).rows
    twin = {
        name: name.replace("test/", "train/", 1)
        for name in data.names
        if name.startswith("test/")
    }
    rows = [row for row in rows if row["problem"] == "copy"]
    right = {r["name"] for r in rows if twin.get(r["name"]) == r["other"]}
    false = [r for r in rows if r["name"] not in right]
    names = sorted(twin)
    shares = [
        np.mean([name in right for name in names[i :: len(KINDS)]])
        for i in range(len(KINDS))
    ]
    return shares, len(false), len(names)


def of_labels(backbone, x, y, classes, seed):
    """Shares of changed labels in the first 10 %, and among those listed."""
    rng = np.random.default_rng(seed)
    changed = rng.choice(len(y), round(0.05 * len(y)), replace=False)
    y = y.copy()
    y[changed] += rng.integers(1, len(classes), len(changed))
    y %= len(classes)
    found = ft.inspect(
        ft.from_arrays(x, y, 0, 0), backbone, seed=seed, verbose=0
    )
    first = found.label_errors.order[: len(y) // 10]
    listed = [r["index"] for r in found.rows if r["problem"] == "label"]
    shares = np.isin(changed, first).mean(), np.isin(changed, listed).mean()
    return *shares, len(listed)


def of_strangers(backbone, x, y, others, seed):
    """Shares of strangers, and of the others, that are listed."""
    strange = others[np.random.default_rng(seed).permutation(len(others))[:10]]
    data = ft.from_arrays(
        np.concatenate([x, strange]), np.append(y, y[:10]), 0, 0
    )
    rows = ft.inspect(data, backbone, verbose=0).rows
    listed = [r["index"] for r in rows if r["problem"] == "outlier"]
    far = np.isin(np.arange(len(data.names)), listed)
    return far[len(x) :].mean(), far[: len(x)].mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    backbone = ft.backbone(
        "MobileNet", SHAPE, weights=arguments.weights, alpha=0.25
    )
    rows = []
    for folder in arguments.folders:
        rng = np.random.default_rng(0)
        shares, false, count = of_copies(backbone, folder, rng)
        cells = [f"{share:.3f}" for share in shares]
        rows.append([folder.parent.name, *cells, f"{false} of {count}"])
    print(format_table(["copies found", *KINDS, "false"], rows), "\n")
    sets = [
        read(f, validation_split=0, test_split=0) for f in arguments.folders
    ]
    photos = [data.arrays("train") for data in sets]
    rows = []
    for i, (data, (x, y)) in enumerate(zip(sets, photos, strict=True)):
        others = photos[(i + 1) % len(photos)][0]
        found = [
            (
                *of_labels(backbone, x, y, data.classes, seed),
                *of_strangers(backbone, x, y, others, seed),
            )
            for seed in range(arguments.seeds)
        ]
        first, listed, length, far, false = np.mean(found, axis=0)
        cells = [f"{first:.2f}", f"{listed:.2f}", f"{length:.0f} of {len(y)}"]
        cells += [f"{far:.2f}", f"{false:.3f}"]
        rows.append([arguments.folders[i].parent.name, *cells])
    header = ["changed labels", "in first 10 %", "listed", "suspects"]
    print(format_table([*header, "strangers", "others"], rows))


if __name__ == "__main__":
    main()
