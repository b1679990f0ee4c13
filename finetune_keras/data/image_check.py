"""Whether an image file can be decoded.

It needs Pillow and nothing else, so that it also runs as a script: processes
beside the one that trains check files with no wait for Keras to start.
"""

import errno
import hashlib
import io
import json
import os
import stat
import sys
import warnings

# No other plug-in of Pillow is to see a file: some start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")

# Read to RGB without a guess about the range of values.
_EIGHT_BIT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX")
_CONVERTED = ("CMYK", "YCbCr")
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 0x0112
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0")
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
# Most photos that a network gets are smaller, and read at once.
_MOST = 2**16
_MOST_BYTES = 2**30
_MORE_THAN_ONE = ("GIF", "TIFF", "WEBP", "PNG")


def check_image(path):
    """Decodes one image: `(digest, width, height, problem, note)`."""
    try:
        data = read_file(path)
    except OSError as error:
        return "", 0, 0, f"cannot be read: {error.strerror}", None
    digest = hashlib.sha256(data).hexdigest()[:32]
    if not data:
        return digest, 0, 0, "empty, 0 bytes", None
    try:
        return digest, *_decode(data)
    except Exception as error:
        return digest, 0, 0, _problem(error, data), None


def read_file(path):
    """Bytes of a file, with a third of the system calls of `open`.

    What is no plain file, such as a pipe, which may wait for ever, or a
    device, which may never end, or has more than 1 GiB, is an `OSError`.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, f"it is {_kind(found.st_mode)}, no file")
    if found.st_size > _MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes")
    flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, os.O_RDONLY | flags)
    try:
        data = os.read(handle, _MOST)
        if len(data) < _MOST:
            return data
        parts, left = [data], _MOST_BYTES
        while parts[-1] and left > 0:
            parts.append(os.read(handle, 16 * _MOST))
            left -= len(parts[-1])
        return b"".join(parts)
    finally:
        os.close(handle)


def _kind(mode):
    kinds = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFDIR: "a folder",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def _decode(data):
    from PIL import Image

    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if orientation(image) > 4:
        width, height = height, width
    problem, note = mode_problem(image.mode), mode_note(image.mode)
    if image.format in ("JPEG", "MPO"):
        # An eighth of the size, in gray, is faster, and still reads every byte.
        image.draft("L", (1, 1))
    image.load()
    if _lacks_end(data, image.format):
        problem = "truncated"
    if image.format in _MORE_THAN_ONE and getattr(image, "n_frames", 1) > 1:
        note = f"{image.n_frames} frames, the first is used"
    return width, height, problem, note


def _lacks_end(data, image_format):
    """Finds a missing end that the decoders do not miss."""
    if image_format == "PNG":
        # The name of the last part, and its checksum.
        return not 0 <= data.rfind(b"IEND") <= len(data) - 8
    if image_format == "JPEG" and not data.endswith(_END):
        return data.find(_END, _scan_start(data)) < 0
    return False


def _scan_start(data):
    """Where the pixels of a JPEG begin: after its header and thumbnails."""
    position = 2
    while position + 4 <= len(data) and data[position : position + 2] != _SCAN:
        if data[position] != 0xFF:
            return position
        if data[position + 1] == 0xFF:
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        position += 2 + length
    return position


def _problem(error, data):
    from PIL import Image

    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels for Pillow (`PIL.Image.MAX_IMAGE_PIXELS`)"
    if isinstance(error, Image.UnidentifiedImageError):
        if data.startswith(_SIGNATURES):
            return "truncated or damaged: its header cannot be read"
        if b"ftyphei" in data[:16] or b"ftypmif" in data[:16]:
            return "HEIC, which Pillow cannot read; save it as JPEG"
        return f"not an image of {', '.join(FORMATS)}"
    message = str(error)
    if "truncated" in message.lower():
        return "truncated"
    return f"damaged: {message or type(error).__name__}"


def mode_problem(mode):
    """Says why a mode of Pillow cannot be used; `None` if it can."""
    if mode in _EIGHT_BIT + _CONVERTED + SIXTEEN_BIT:
        return None
    return f"mode {mode}: the range of its values is not known"


def mode_note(mode):
    """Says how a mode out of the ordinary is converted, or `None`."""
    if mode in _CONVERTED:
        return f"{mode}, converted to RGB"
    if mode in SIXTEEN_BIT:
        return "16-bit, scaled to 8 bits"
    return None


def orientation(image):
    """Orientation of a Pillow image by its EXIF data, 1 to 8."""
    # Looking for it costs more than opening the file where there is none.
    if image.format in ("JPEG", "MPO") and "exif" not in image.info:
        return 1
    return image.getexif().get(_ORIENTATION, 1)


def serve(lines, answer):
    """Checks lists of paths until there are no more.

    The lines are of JSON: first the most pixels of an image, then the lists.
    `answer` gets a list of results for each.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = json.loads(next(lines))
    # Pillow warns of odd EXIF data and of large images.
    warnings.simplefilter("ignore")
    for line in lines:
        answer([check_image(path) for path in json.loads(line)])


if __name__ == "__main__":
    serve(sys.stdin, lambda found: print(json.dumps(found), flush=True))
