"""Image files to arrays and back; resizing.

An image is [h, w, 3] float32 in [0, 1], sRGB. A file is untrusted: its size is bounded before its
header is read, and its dimensions are bounded before its pixels are decoded.
"""

import contextlib
import io
import os
import secrets
import stat
import threading
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from oeft_jax._checks import InputError, check_choice, check_range

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # Pillow's names; nothing else opens
MAX_BYTES = 200_000_000
MAX_PIXELS = 100_000_000
MAX_SIDE = 30_000
MIN_SIDE = 16

METHODS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
FITS = ("crop", "squeeze")

_KINDS = f"a single picture in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
_SIZES = f"at most {MAX_PIXELS // 10**6} million pixels and {MAX_SIDE:,} on a side"
_REDUCING_GAP = 2  # what is left for the antialiased resize, as Pillow's `reducing_gap`
_ORIENTATION = 0x0112  # EXIF tag; its values 2..8 are undone by:
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FILTERS_LOCK = threading.Lock()  # the filters of `warnings` belong to the whole process


def read_image(path: str | os.PathLike[str], *, at_least: int = 0) -> np.ndarray:
    """The picture in a file, upright, in sRGB, whatever its proportions.

    EXIF orientation is applied, an embedded colour profile is converted to sRGB (a broken one is
    ignored, and so is one on 16-bit grey), transparent parts are laid over white, and grey is
    repeated to three channels. 16-bit grey keeps its precision; 16-bit colour is read as 8-bit.
    Nothing is cropped: an elongated picture is cut or squeezed by `fit_square`, later.

    Args:
      path: a PNG, JPEG, WEBP, BMP, TIFF, GIF or PPM file with one frame.
      at_least: shortest side needed, in pixels. Where the picture is more than twice that, it
        may be decoded smaller (never below `at_least`). 0 never does, and the largest picture
        accepted then takes over 2 GB of memory.
    Returns:
      [h, w, 3] float32 in [0, 1].
    Raises:
      InputError: the file cannot be read, is no such picture, is damaged, or is out of bounds.
    """
    check_range("at_least", at_least, 0)
    data = _read_bytes(path)
    try:
        with _quiet(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_header(path, image)
            return _decode(path, image, at_least)
    except InputError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit comes before ours
        raise InputError(f"{path}: is too large; accepted: {_SIZES}.") from error
    except UnidentifiedImageError as error:
        problem = "is not an image of a known format, or its header is damaged"
        raise InputError(f"{path}: {problem}; accepted: {_KINDS}.") from error
    except MemoryError as error:
        raise InputError(f"{path}: does not fit in memory; accepted: a smaller picture.") from error
    except Exception as error:  # decoders raise nearly anything on damaged data
        problem = f"is damaged, cut short or of an unsupported kind ({str(error).strip()})"
        raise InputError(f"{path}: {problem}; accepted: {_KINDS}.") from error


def resize(image: np.ndarray, size: tuple[int, int], *, method: str = "bicubic") -> np.ndarray:
    """The image at another size, antialiased when it shrinks.

    Args:
      image: [h, w, c] float.
      size: (height, width) of the result.
      method: "bicubic" or "bilinear".
    Returns:
      [height, width, c] float32, clipped to [0, 1].
    """
    check_choice("method", method, METHODS)
    height, width = size
    check_range("height", height, 1)
    check_range("width", width, 1)
    channels = np.moveaxis(np.asarray(image, np.float32), -1, 0)
    planes = [Image.fromarray(np.ascontiguousarray(channel)) for channel in channels]  # mode F
    resized = [np.asarray(plane.resize((width, height), METHODS[method])) for plane in planes]
    return np.clip(np.stack(resized, axis=-1), 0.0, 1.0)


def fit_square(
    image: np.ndarray, size: int, mode: str = "crop", *, method: str = "bicubic"
) -> np.ndarray:
    """The image as a square of a given size.

    "crop" takes the central square and so keeps proportions; "squeeze" resizes both sides, as the
    paper does, which deforms what is not square. Of a picture longer than about 4:1 a crop shows
    little and a squeeze is hardly recognisable: such a picture is better cut by hand.

    Returns:
      [size, size, c] float32 in [0, 1].
    """
    return resize(framed(image, mode), (size, size), method=method)


def framed(image: np.ndarray, mode: str) -> np.ndarray:
    """The part of the image that `fit_square` takes: the central square, or all of it."""
    check_choice("mode", mode, FITS)
    if mode == "squeeze":
        return image
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def with_longer_side(image: np.ndarray, longer: int) -> np.ndarray:
    """The image in its proportions, its longer side of so many pixels, the other one at least 1."""
    scale = longer / max(image.shape[:2])
    h, w = (max(1, round(side * scale)) for side in image.shape[:2])
    return resize(image, (h, w))


def to_uint8(image: np.ndarray) -> np.ndarray:
    """[0, 1] as the nearest of 256 levels; clipped. Same shape, uint8."""
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes an 8-bit PNG, whole or not at all; equal images give equal bytes.

    Args:
      path: replaced if it exists; its folder must exist.
      image: [h, w, 3] float in [0, 1], rounded to the nearest of 256 levels; clipped.
    Raises:
      ValueError: the image has another shape, is not float, or is not finite.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}; accepted: [h, w, 3].")
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"image is {image.dtype}; accepted: float in [0, 1].")
    if not np.isfinite(image).all():
        raise ValueError("image has NaN or infinite values; accepted: float in [0, 1].")
    levels = to_uint8(image)
    # Not `tempfile`: its files are closed to other users, whatever the umask says.
    folder = os.path.dirname(os.path.abspath(path))
    part = os.path.join(folder, f".{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb") as file:
            Image.fromarray(levels).save(file, format="PNG")
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Pillow's remarks on size and metadata: ours are errors, and say more."""
    with _FILTERS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path}: is a folder; accepted: {_KINDS}.")
        if not stat.S_ISREG(status.st_mode):  # a pipe could block for ever
            raise InputError(f"{path}: is not a regular file; accepted: {_KINDS}.")
        if status.st_size > MAX_BYTES:
            limit = f"at most {MAX_BYTES // 10**6} MB"
            raise InputError(f"{path}: is too large a file; accepted: {limit}.")
        with open(path, "rb") as file:
            data = file.read(status.st_size)  # bounded even if it grows meanwhile
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; accepted: {_KINDS}.") from error
    except PermissionError as error:
        raise InputError(f"{path}: may not be read; accepted: a file you can read.") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}); accepted: {_KINDS}.") from error
    if not data:
        raise InputError(f"{path}: is empty; accepted: {_KINDS}.")
    return data


def _check_header(path: str | os.PathLike[str], image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise InputError(f"{path}: is too large ({width} x {height} pixels); accepted: {_SIZES}.")
    if min(width, height) < MIN_SIDE:
        problem = f"is too small ({width} x {height} pixels)"
        raise InputError(f"{path}: {problem}; accepted: at least {MIN_SIDE} on a side.")
    # A phone's JPEG may hold a preview or depth map behind the photo (MPO); the photo comes first.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise InputError(f"{path}: has several frames or pages; accepted: {_KINDS}.")


def _decode(path: str | os.PathLike[str], image: Image.Image, at_least: int) -> np.ndarray:
    least = at_least * _REDUCING_GAP
    if least:
        image.draft(None, (least, least))  # JPEG only: decodes at 1/2, 1/4 or 1/8
    image.load()
    upright = _orientation(image)
    profile = image.info.get("icc_profile")
    deep = image.mode.startswith(("I", "F"))
    image = _deep_grey(path, image) if deep else _plain(image)
    if least and (factor := min(image.size) // least) > 1:
        image = image.reduce(factor)  # weighs colour by alpha
    image = image if deep else _over_white(image, profile)
    if upright is not None:
        image = image.transpose(upright)
    values = np.array(image, np.float32)
    if deep:
        return np.repeat(values[:, :, None], 3, axis=-1)
    values /= 255.0
    return values


def _orientation(image: Image.Image) -> Image.Transpose | None:
    try:  # after load(): PNG may keep EXIF behind the pixels, and TIFF is upright already
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata is no reason to refuse the pixels
        return None


def _deep_grey(path: str | os.PathLike[str], image: Image.Image) -> Image.Image:
    """More than 8 bits of grey, as mode F in [0, 1]; Pillow's own conversion would clip at 255."""
    values = np.asarray(image).astype(np.float32)
    if image.mode != "F":
        tags = getattr(image, "tag_v2", {})  # TIFF only
        twelve_bits = tags.get(258) == (12,)  # BitsPerSample
        values /= 4095.0 if twelve_bits else 65535.0
        if image.mode != "I" and tags.get(262) == 0:  # PhotometricInterpretation: white is zero
            values = 1.0 - values
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        values[np.asarray(image) == transparent] = 1.0
    if not (values.min() >= 0.0 and values.max() <= 1.0):  # NaN lands here too
        kinds = "0 to 65535 in integers or 0 to 1 in floats"
        raise InputError(f"{path}: has grey values out of range or NaN; accepted: {kinds}.")
    return Image.fromarray(values)


def _plain(image: Image.Image) -> Image.Image:
    """As L, LA, RGB, RGBA or CMYK: no palette, no bit mask, no single transparent colour."""
    keyed = image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info
    if keyed or image.mode in ("PA", "RGBa"):
        return image.convert("RGBA")
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _over_white(image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode not in ("LA", "RGBA"):
        return _to_srgb(image, profile)
    alpha = image.getchannel("A")
    colour = _to_srgb(image.convert(image.mode[:-1]), profile)
    return Image.composite(colour, Image.new("RGB", image.size, "white"), alpha)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        # A profile may be broken or made for another mode; littleCMS may be absent.
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")
