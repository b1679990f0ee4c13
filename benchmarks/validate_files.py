"""Rate of the check of image files, and of the check of unchanged ones.

    KERAS_BACKEND=tensorflow python benchmarks/validate_files.py --data FOLDER

Copies the JPEG files of FOLDER until there are enough, then decodes them in
turns: with a plain loop over `tf.io.decode_image`, with `check_images`, and
with `check_images` again, which remembers. The table shows the median rate of
each and its ratio to the loop. `--files` and `--rounds` set how much is done.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import tempfile
import time

import tensorflow as tf

from finetune_keras.data.files import check_images
from finetune_keras.data.walk import list_folder


def copy_files(source, target, count):
    """Fills `target` with `count` copies, each with a name of its own."""
    found = sorted(
        p for p in pathlib.Path(source).rglob("*") if p.suffix == ".jpg"
    )
    if not found:
        raise SystemExit(f"No .jpg file below {source}")
    for i in range(count):
        shutil.copyfile(found[i % len(found)], target / f"{i:06d}.jpg")


def plain_loop(folder):
    for name, _, _ in list_folder(folder).files:
        tf.io.decode_image(tf.io.read_file(os.path.join(folder, name)))


def check(folder):
    check_images(folder, list_folder(folder).files, verbose=0)


def check_new(folder):
    """Without what is remembered of the last round."""
    shutil.rmtree(os.environ["FINETUNE_KERAS_CACHE"], ignore_errors=True)
    check(folder)


def rate(function, folder, count):
    start = time.perf_counter()
    function(folder)
    return count / (time.perf_counter() - start)


def measure(folder, count, rounds):
    kinds = {
        "tf.io.decode_image": plain_loop,
        "check_images": check_new,
        "check_images, unchanged": check,
    }
    rates = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, function in kinds.items():
            rates[name].append(rate(function, folder, count))
    return rates


def print_table(rates):
    loop = rates["tf.io.decode_image"]
    print(f"{'':26}{'files/s':>10}{'ratio':>8}{'lowest':>8}{'highest':>8}")
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(values, loop, strict=True)]
        print(
            f"{name:26}{statistics.median(values):10,.0f}"
            f"{statistics.median(ratios):8.2f}{min(ratios):8.2f}"
            f"{max(ratios):8.2f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of JPEG files")
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary, "files")
        folder.mkdir()
        os.environ["FINETUNE_KERAS_CACHE"] = str(folder.parent / "cache")
        copy_files(args.data, folder, args.files)
        print_table(measure(str(folder), args.files, args.rounds))


if __name__ == "__main__":
    main()
