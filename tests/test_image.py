"""Every file is made here, and the values read back are compared with those that went in."""

import os
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from oeft_jax import image as image_module
from oeft_jax._checks import InputError
from oeft_jax.image import fit_square, read_image, resize, write_png

HEIGHT, WIDTH = 24, 40
LEVEL = 1 / 255


@pytest.fixture
def levels():
    """[HEIGHT, WIDTH, 3] uint8, smooth, and different under every flip and turn."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 6, y * 10, 60 + x * 2 + y * 3], axis=-1).astype(np.uint8)


def unit(levels):
    return levels.astype(np.float32) / 255


def saved(image, path, **options):
    image.save(path, **options)
    return path


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_bytes(width, height, depth, colour, rows, extra=()):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(*each) for each in extra)]
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def assert_read(path, expected, *, atol=1e-6):
    result = read_image(path)
    assert result.dtype == np.float32
    assert result.shape == expected.shape
    assert result.min() >= 0
    assert result.max() <= 1
    np.testing.assert_allclose(result, expected, rtol=0, atol=atol)


# What is read


@pytest.mark.parametrize(
    ("name", "options", "atol"),
    [
        ("a.png", {}, 1e-6),
        ("a.bmp", {}, 1e-6),
        ("a.tif", {}, 1e-6),
        ("deflate.tif", {"compression": "tiff_adobe_deflate"}, 1e-6),
        ("a.ppm", {}, 1e-6),
        ("lossless.webp", {"lossless": True}, 1e-6),
        ("a.webp", {"quality": 95}, 12 * LEVEL),
        ("a.jpg", {"quality": 95, "subsampling": 0}, 6 * LEVEL),
    ],
)
def test_formats_give_the_values_saved(tmp_path, levels, name, options, atol):
    path = saved(Image.fromarray(levels), tmp_path / name, **options)
    assert_read(path, unit(levels), atol=atol)


def test_format_is_told_by_content_not_by_name(tmp_path, levels):
    path = saved(Image.fromarray(levels), tmp_path / "a.jpg", format="PNG")
    assert_read(str(path), unit(levels))


def test_single_frame_gif(tmp_path, levels):
    palette = Image.fromarray(levels).quantize(64)
    path = saved(palette, tmp_path / "a.gif")
    assert_read(path, unit(np.asarray(palette.convert("RGB"))))


def grey_as_rgb(grey):
    return np.repeat(grey[:, :, None], 3, axis=-1)


def test_grey_is_replicated(tmp_path, levels):
    path = saved(Image.fromarray(levels[..., 0]), tmp_path / "a.png")
    assert_read(path, grey_as_rgb(unit(levels[..., 0])))


def test_one_bit(tmp_path, levels):
    bits = levels[..., 0] > 100
    path = saved(Image.fromarray(bits), tmp_path / "a.png")
    with Image.open(path) as image:
        assert image.mode == "1"
    assert_read(path, grey_as_rgb(bits.astype(np.float32)))


@pytest.fixture
def deep():
    """[HEIGHT, WIDTH] uint16 over the whole range."""
    return np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, deep, name):
    path = saved(Image.fromarray(deep), tmp_path / name)
    with Image.open(path) as image:
        assert image.mode == ("I" if name == "a.pgm" else "I;16")
    assert_read(path, grey_as_rgb(deep / np.float32(65535)))


def test_16_bit_big_endian_and_white_is_zero_tiff(tmp_path, deep):
    def tiff(order, photometric):
        tags = [(256, WIDTH), (257, HEIGHT), (258, 16), (259, 1), (262, photometric)]
        tags += [(273, 8 + 2 + 12 * 8 + 4), (277, 1), (279, deep.nbytes)]
        entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
        head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HIH", 42, 8, len(tags))
        return head + entries + bytes(4) + deep.astype(order + "u2").tobytes()

    path = tmp_path / "a.tif"
    path.write_bytes(tiff(">", 1))
    assert_read(path, grey_as_rgb(deep / np.float32(65535)))
    path.write_bytes(tiff("<", 0))
    assert_read(path, grey_as_rgb(1 - deep / np.float32(65535)))


def test_16_bit_grey_transparent_value_becomes_white(tmp_path, deep):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    key = int(deep[3, 4])
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(WIDTH, HEIGHT, 16, 0, rows, [(b"tRNS", struct.pack(">H", key))]))
    expected = np.where(deep == key, 1, deep / np.float32(65535))
    assert_read(path, grey_as_rgb(expected))


def test_16_bit_colour_png(tmp_path, levels):
    wide = levels.astype(np.uint16) * 257  # 255 becomes 65535
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(WIDTH, HEIGHT, 16, 2, rows))
    assert_read(path, unit(levels), atol=LEVEL)


def test_float_tiff_is_taken_as_it_is_or_refused(tmp_path):
    values = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    path = saved(Image.fromarray(values), tmp_path / "a.tif")
    assert_read(path, grey_as_rgb(values))
    for bad in (values * 255, values - 1, np.where(values > 0.5, np.nan, values)):
        saved(Image.fromarray(bad.astype(np.float32)), path)
        with pytest.raises(InputError, match=r"a\.tif: has grey values out of range or NaN"):
            read_image(path)


def test_32_bit_integers_beyond_16_bits_are_refused(tmp_path, deep):
    path = saved(Image.fromarray(deep.astype(np.int32)), tmp_path / "a.tif")
    with Image.open(path) as image:
        assert image.mode == "I"
    assert_read(path, grey_as_rgb(deep / np.float32(65535)))
    saved(Image.fromarray(deep.astype(np.int32) * 2), path)
    with pytest.raises(InputError, match="accepted: 0 to 65535 in integers"):
        read_image(path)


def test_palette(tmp_path, levels):
    palette = Image.fromarray(levels).quantize(32)
    path = saved(palette, tmp_path / "a.png")
    assert_read(path, unit(np.asarray(palette.convert("RGB"))))


@pytest.mark.parametrize("transparency", [5, bytes([0, 128, 255])])
def test_palette_with_transparency_over_white(tmp_path, levels, transparency):
    palette = Image.fromarray(levels).quantize(32)
    path = saved(palette, tmp_path / "a.png", transparency=transparency)
    alpha = np.full(256, 255)
    if isinstance(transparency, int):
        alpha[transparency] = 0
    else:
        alpha[:3] = list(transparency)
    alpha = alpha[np.asarray(palette)][..., None] / 255
    assert 0 < (alpha < 1).sum() < alpha.size
    expected = unit(np.asarray(palette.convert("RGB"))) * alpha + (1 - alpha)
    assert_read(path, expected, atol=LEVEL)


@pytest.mark.parametrize(
    ("mode", "key"), [("RGB", (30, 40, 82)), ("L", 30)]
)  # key: the pixel at row 4, column 5
def test_transparent_colour_over_white(tmp_path, levels, mode, key):
    pixels = levels if mode == "RGB" else levels[..., 0]
    path = saved(Image.fromarray(pixels), tmp_path / "a.png", transparency=key)
    assert np.array_equal(pixels[4, 5], key)
    expected = unit(pixels) if mode == "RGB" else grey_as_rgb(unit(pixels))
    expected[levels[..., 0] == 30 if mode == "L" else (levels == key).all(-1)] = 1
    assert_read(path, expected)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_alpha_is_laid_over_white(tmp_path, levels, name):
    alpha = np.linspace(0, 255, HEIGHT * WIDTH).astype(np.uint8).reshape(HEIGHT, WIDTH, 1)
    rgba = Image.fromarray(np.concatenate([levels, alpha], axis=-1))
    options = {"lossless": True, "exact": True} if name == "a.webp" else {}
    path = saved(rgba, tmp_path / name, **options)
    assert_read(path, unit(levels) * unit(alpha) + (1 - unit(alpha)), atol=LEVEL)


def test_grey_with_alpha(tmp_path, levels):
    path = saved(Image.fromarray(levels[..., :2]), tmp_path / "a.png")
    with Image.open(path) as image:
        assert image.mode == "LA"
    grey, alpha = unit(levels[..., 0]), unit(levels[..., 1])
    assert_read(path, grey_as_rgb(grey * alpha + 1 - alpha), atol=LEVEL)


def test_cmyk_jpeg(tmp_path):
    inks = np.zeros((32, 32, 4), np.uint8)
    inks[:, :16] = (0, 255, 255, 0)  # red
    inks[:, 16:] = (0, 0, 0, 128)  # half black
    path = saved(Image.fromarray(inks, "CMYK"), tmp_path / "a.jpg", quality=100)
    assert b"Adobe" in path.read_bytes()[:200]  # stored inverted, as Adobe does
    result = read_image(path)
    np.testing.assert_allclose(result[8, 4], [1, 0, 0], atol=4 * LEVEL)
    np.testing.assert_allclose(result[8, 28], [0.5, 0.5, 0.5], atol=4 * LEVEL)


def turned(levels, orientation):
    """What a viewer shows for stored pixels, from the EXIF text on where row 0 and column 0 go."""
    swapped = levels.swapaxes(0, 1)
    return {
        1: levels,
        2: levels[:, ::-1],
        3: levels[::-1, ::-1],
        4: levels[::-1],
        5: swapped,
        6: swapped[:, ::-1],
        7: swapped[::-1, ::-1],
        8: swapped[::-1],
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_exif_orientation(tmp_path, levels, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name == "a.webp" else {}
    path = saved(Image.fromarray(levels), tmp_path / name, exif=exif, **options)
    assert_read(path, unit(turned(levels, orientation)))


def test_exif_orientation_of_16_bit_and_jpeg(tmp_path, levels, deep):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(Image.fromarray(deep), tmp_path / "a.png", exif=exif)
    assert_read(path, grey_as_rgb(turned(deep, 6) / np.float32(65535)))
    jpeg = saved(Image.fromarray(levels), tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    assert_read(jpeg, unit(turned(levels, 6)), atol=6 * LEVEL)


@pytest.mark.parametrize("exif", [b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II"])
def test_broken_exif_is_ignored(tmp_path, levels, exif):
    path = saved(Image.fromarray(levels), tmp_path / "a.png", exif=exif)
    assert_read(path, unit(levels))


def srgb_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def red_blue_swapped_profile():
    """sRGB whose red and blue primaries trade places: its effect is known without a CMS."""
    profile = bytearray(srgb_profile())
    at = {}
    for index in range(struct.unpack(">I", profile[128:132])[0]):
        entry = 132 + 12 * index
        at[bytes(profile[entry : entry + 4])] = entry
    red, blue = (slice(at[name] + 4, at[name] + 12) for name in (b"rXYZ", b"bXYZ"))
    profile[red], profile[blue] = profile[blue], profile[red]
    return bytes(profile)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_colour_profile_is_converted_to_srgb(tmp_path, levels, name):
    path = saved(Image.fromarray(levels), tmp_path / name, icc_profile=red_blue_swapped_profile())
    assert_read(path, unit(levels[..., ::-1]), atol=2 * LEVEL)


def test_colour_profile_leaves_alpha_alone(tmp_path, levels):
    alpha = np.full((HEIGHT, WIDTH, 1), 51, np.uint8)
    rgba = Image.fromarray(np.concatenate([levels, alpha], axis=-1))
    path = saved(rgba, tmp_path / "a.png", icc_profile=red_blue_swapped_profile())
    assert_read(path, unit(levels[..., ::-1]) * 0.2 + 0.8, atol=2 * LEVEL)


def test_srgb_profile_changes_next_to_nothing(tmp_path, levels):
    path = saved(Image.fromarray(levels), tmp_path / "a.png", icc_profile=srgb_profile())
    assert_read(path, unit(levels), atol=LEVEL * 1.01)


@pytest.mark.parametrize("profile", [b"not a profile", srgb_profile()[:200]])
def test_broken_profile_is_ignored(tmp_path, levels, profile):
    path = saved(Image.fromarray(levels), tmp_path / "a.png", icc_profile=profile)
    assert_read(path, unit(levels))


def test_profile_for_another_mode_is_ignored(tmp_path, levels):
    grey = levels[..., 0]
    path = saved(Image.fromarray(grey), tmp_path / "a.png", icc_profile=srgb_profile())
    assert_read(path, grey_as_rgb(unit(grey)))


def test_photo_with_a_second_picture_behind_it(tmp_path, levels):
    photo, behind = Image.fromarray(levels), Image.fromarray(levels[::-1].copy())
    path = tmp_path / "a.jpg"
    photo.save(path, "MPO", save_all=True, append_images=[behind], quality=95, subsampling=0)
    with Image.open(path) as image:
        assert image.n_frames == 2
    assert_read(path, unit(levels), atol=6 * LEVEL)


def test_elongated_is_read_whole(tmp_path):
    path = saved(Image.new("RGB", (20_000, 16), (255, 0, 51)), tmp_path / "a.png")
    result = read_image(path)
    assert result.shape == (16, 20_000, 3)
    np.testing.assert_allclose(result[7, 19_999], [1, 0, 0.2], atol=1e-6)


# Reading smaller


def smooth(height, width):
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * (255 / width), y * (255 / height), np.full_like(x, 99)]
    return np.stack(channels, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "grey.png", "deep.png", "alpha.png"])
def test_at_least_reads_smaller_but_not_too_small(tmp_path, name):
    pixels = smooth(600, 900)
    expected = unit(pixels)
    image = Image.fromarray(pixels)
    if name == "grey.png":
        image, expected = Image.fromarray(pixels[..., 0]), grey_as_rgb(expected[..., 0])
    elif name == "deep.png":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        expected = grey_as_rgb(expected[..., 0])
    elif name == "alpha.png":
        image.putalpha(128)
        expected = expected * (128 / 255) + (127 / 255)
    path = saved(image, tmp_path / name)
    assert read_image(path).shape == (600, 900, 3)
    small = read_image(path, at_least=64)
    assert small.shape[0] in range(64, 64 * 4)
    assert small.shape[0] * 3 == pytest.approx(small.shape[1] * 2, abs=4)
    np.testing.assert_allclose(resize(small, (64, 96)), resize(expected, (64, 96)), atol=0.03)
    assert read_image(path, at_least=600).shape == (600, 900, 3)
    assert read_image(path, at_least=5000).shape == (600, 900, 3)


def test_large_jpeg_is_drafted(tmp_path, monkeypatch):
    path = saved(Image.new("RGB", (20_000, 1_600), (200, 100, 50)), tmp_path / "a.jpg")
    loaded = []
    load = ImageFile.ImageFile.load

    def spy(self):
        loaded.append(self.size)
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", spy)
    result = read_image(path, at_least=100)
    assert loaded[0] == (2_500, 200)
    assert result.shape == (200, 2_500, 3)
    np.testing.assert_allclose(result[100, 100], [200 / 255, 100 / 255, 50 / 255], atol=3 * LEVEL)


def test_negative_at_least(tmp_path):
    with pytest.raises(InputError, match="at_least=-1 is out of range; accepted: "):
        read_image(tmp_path / "a.png", at_least=-1)


# What is refused


@pytest.fixture
def no_decoding(monkeypatch):
    def fail(self):
        raise AssertionError("decoded before its size was checked")

    monkeypatch.setattr(Image.Image, "load", fail)
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.parametrize(
    ("width", "height", "problem"),
    [
        (2**31 - 1, 2**31 - 1, "too large; accepted: at most 100 million"),
        (20_000, 20_000, "too large; accepted: at most 100 million pixels"),
        (12_000, 8_500, r"too large \(12000 x 8500 pixels\); accepted: at most 100 million"),
        (30_001, 16, r"too large \(30001 x 16 pixels\); accepted: .* 30,000 on a side"),
        (16, 30_001, r"too large \(16 x 30001 pixels\)"),
        (1, 1, r"too small \(1 x 1 pixels\); accepted: at least 16 on a side"),
        (500, 15, r"too small \(500 x 15 pixels\)"),
    ],
)
def test_size_is_refused_from_the_header(tmp_path, width, height, problem):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bytes(width, height, 8, 2, bytes(1000)))
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own warning must not come up
        with pytest.raises(InputError, match=rf"bomb\.png: is {problem}"):
            read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize(("width", "height"), [(20_000, 4_000), (10_000, 10_000)])
def test_largest_sizes_pass_the_header_check(tmp_path, width, height):
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(width, height, 1, 0, b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="damaged, cut short"):  # so it got as far as decoding
            read_image(path)


def test_wide_jpeg_within_the_limit(tmp_path):
    path = saved(Image.new("L", (20_000, 4_000), 102), tmp_path / "a.jpg")
    result = read_image(path, at_least=250)
    assert result.shape == (500, 2_500, 3)
    np.testing.assert_allclose(result, 0.4, atol=LEVEL)


def test_missing_folder_empty_and_unknown(tmp_path):
    with pytest.raises(InputError, match=r"none\.png: there is no such file; accepted: a single"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder; accepted: a single picture in PNG, JPEG"):
        read_image(tmp_path)
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.png: is empty; accepted: "):
        read_image(path)
    for junk in (b"hello, this is text", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"P6\n", bytes(5000)):
        path.write_bytes(junk)
        with pytest.raises(InputError, match=r"a\.png: is not an image of a known format|damaged"):
            read_image(path)
    with pytest.raises(InputError, match=r"cannot be read .*; accepted: "):
        read_image("a\0b.png")
    with pytest.raises(InputError, match=r"cannot be read .*; accepted: "):
        read_image("a" * 5000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: is not a regular file; accepted: "):
        read_image(tmp_path / "a.png")


def test_formats_outside_the_list_are_refused(tmp_path, levels):
    for name in ("a.ico", "a.tga", "a.pcx", "a.jp2", "a.eps"):
        try:
            path = saved(Image.fromarray(levels), tmp_path / name)
        except OSError:  # a Pillow built without this encoder
            continue
        with pytest.raises(InputError, match=rf"{name}: is not an image of a known format"):
            read_image(path)


def test_no_permission(tmp_path, levels, monkeypatch):
    path = saved(Image.fromarray(levels), tmp_path / "a.png")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    # Not chmod: the tests may run as a user for whom permissions do not count.
    monkeypatch.setattr(image_module, "open", refuse, raising=False)
    with pytest.raises(InputError, match=r"a\.png: may not be read; accepted: a file you can read"):
        read_image(path)


def test_too_many_bytes(tmp_path, levels, monkeypatch):
    assert image_module.MAX_BYTES == 200_000_000
    path = saved(Image.fromarray(levels), tmp_path / "a.bmp")
    monkeypatch.setattr(image_module, "MAX_BYTES", path.stat().st_size)
    assert_read(path, unit(levels))
    monkeypatch.setattr(image_module, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(InputError, match=r"a\.bmp: is too large a file; accepted: at most"):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.jpg", {}),
        ("progressive.jpg", {"progressive": True}),
        ("a.webp", {}),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("deflate.tif", {"compression": "tiff_adobe_deflate"}),
        ("a.gif", {}),
        ("a.ppm", {}),
    ],
)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.9])
def test_truncated(tmp_path, name, options, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / name, **options)
    assert read_image(path).shape == (64, 64, 3)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    with pytest.raises(InputError, match=r"damaged.*; accepted: "):
        read_image(path)


def test_corrupt_png_data(tmp_path, levels):
    path = saved(Image.fromarray(levels), tmp_path / "a.png")
    data = bytearray(path.read_bytes())
    middle = data.index(b"IDAT") + 40
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.png: is damaged, cut short"):
        read_image(path)


def test_random_damage_never_escapes(tmp_path, levels):
    """Whatever a byte changes, the answer is an image or an InputError, with no warning."""
    random = np.random.default_rng(1)
    answers = []
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.tif", "a.gif", "a.ppm"):
        path = saved(Image.fromarray(levels), tmp_path / name)
        whole = path.read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            reach = min(len(data), 200) if random.random() < 0.7 else len(data)
            for at in random.integers(0, reach, 3):
                data[at] = random.integers(0, 256)
            path.write_bytes(data)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    answers.append(read_image(path))
                except InputError as error:
                    answers.append(str(error).startswith(f"{path}: "))
    refused = [answer for answer in answers if isinstance(answer, bool)]
    assert 0 < len(refused) < len(answers)
    assert all(refused)
    images = [answer for answer in answers if not isinstance(answer, bool)]
    assert all(image.shape[-1] == 3 and np.isfinite(image).all() for image in images)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_several_frames_are_refused(tmp_path, levels, name):
    frames = [Image.fromarray(levels), Image.fromarray(levels[::-1].copy())]
    path = saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:])
    with Image.open(path) as image:
        assert image.n_frames == 2
    with pytest.raises(InputError, match=rf"{name}: has several frames or pages; accepted: a sing"):
        read_image(path)


# Resizing


def test_resize_is_exact_on_a_constant_and_on_the_same_size(levels):
    constant = np.full((30, 50, 3), 0.3, np.float32)
    for method in image_module.METHODS:
        result = resize(constant, (7, 90), method=method)
        assert result.shape == (7, 90, 3)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, 0.3, atol=1e-6)
    np.testing.assert_allclose(resize(unit(levels), (HEIGHT, WIDTH)), unit(levels), atol=1e-6)


def test_resize_is_antialiased():
    checks = np.indices((64, 64)).sum(0) % 2
    for method in image_module.METHODS:
        inner = resize(checks[..., None].astype(np.float32), (9, 9), method=method)[1:-1, 1:-1]
        np.testing.assert_allclose(inner, 0.5, atol=0.02)  # picking pixels would give 0 or 1


def test_resize_by_half_is_the_triangle_filter():
    row = np.random.default_rng(0).random(32).astype(np.float32)
    result = resize(np.tile(row[None, :, None], (8, 1, 1)), (8, 16), method="bilinear")[4, :, 0]
    for j in range(1, 15):  # centre 2 j + 1, reach 2: weights 1/8, 3/8, 3/8, 1/8
        expected = row[2 * j - 1 : 2 * j + 3] @ np.array([1, 3, 3, 1]) / 8
        assert result[j] == pytest.approx(expected, abs=1e-6)


def test_resize_clips_what_bicubic_overshoots():
    step = np.zeros((16, 16, 3), np.float32)
    step[:, 8:] = 1
    plain = np.asarray(Image.fromarray(step[..., 0]).resize((64, 64), Image.Resampling.BICUBIC))
    assert plain.max() > 1.01
    result = resize(step, (64, 64))
    assert result.min() == 0
    assert result.max() == 1


def test_resize_refuses_unknown_method_and_size(levels):
    with pytest.raises(ValueError, match="method='cubic' is not known; accepted: bicubic, biline"):
        resize(unit(levels), (8, 8), method="cubic")
    with pytest.raises(ValueError, match="height=0 is out of range; accepted: "):
        resize(unit(levels), (0, 8))


def test_fit_square_crop_takes_the_middle(levels):
    image = unit(levels)
    middle = image[:, 8:32]  # (40 - 24) / 2 = 8
    np.testing.assert_allclose(fit_square(image, HEIGHT), middle, atol=1e-6)
    np.testing.assert_allclose(fit_square(image, 10), resize(middle, (10, 10)), atol=1e-6)
    upright = fit_square(image.swapaxes(0, 1), HEIGHT, "crop")
    np.testing.assert_allclose(upright, middle.swapaxes(0, 1), atol=1e-6)


def test_fit_square_squeeze_keeps_everything(levels):
    result = fit_square(unit(levels), 16, mode="squeeze", method="bilinear")
    expected = resize(unit(levels), (16, 16), method="bilinear")
    np.testing.assert_array_equal(result, expected)


def test_fit_square_unknown_mode(levels):
    with pytest.raises(ValueError, match="mode='pad' is not known; accepted: crop, squeeze"):
        fit_square(unit(levels), 16, "pad")


# Writing


def test_write_then_read(tmp_path, levels):
    path = tmp_path / "a.png"
    write_png(path, unit(levels))
    assert_read(path, unit(levels))
    assert os.listdir(tmp_path) == ["a.png"]


def test_write_rounds_to_nearest_and_clips(tmp_path):
    image = np.full((16, 16, 3), 100.4 / 255)
    image[0, 0] = [100.6 / 255, -0.5, 1.5]
    write_png(tmp_path / "a.png", image)
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    assert pixels.dtype == np.uint8
    assert pixels[0, 0].tolist() == [101, 0, 255]
    assert pixels[5, 5].tolist() == [100, 100, 100]


def test_write_is_deterministic_and_replaces(tmp_path, levels):
    write_png(tmp_path / "a.png", unit(levels))
    (tmp_path / "b.png").write_bytes(b"old")
    write_png(str(tmp_path / "b.png"), unit(levels).astype(np.float64))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (np.full((16, 16, 3), np.nan), "NaN or infinite values; accepted: "),
        (np.full((16, 16, 3), np.inf), "NaN or infinite values; accepted: "),
        (np.zeros((16, 16, 3), np.uint8), "is uint8; accepted: float"),
        (np.zeros((16, 16)), r"shape \(16, 16\); accepted: "),
        (np.zeros((16, 16, 4)), r"shape \(16, 16, 4\); accepted: "),
    ],
)
def test_write_refuses(tmp_path, image, problem):
    with pytest.raises(ValueError, match=problem):
        write_png(tmp_path / "a.png", image)
    assert os.listdir(tmp_path) == []


def test_interrupted_write_leaves_the_old_file_alone(tmp_path, levels, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def interrupt(self, file, **_):
        file.write(b"half a ")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_png(path, unit(levels))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_written_file_follows_the_umask(tmp_path, levels):
    before = os.umask(0o022)
    try:
        write_png(tmp_path / "a.png", unit(levels))
    finally:
        os.umask(before)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o644
