from __future__ import annotations

import os
import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from eachmask.data.images.read import as_array, num_pages, orient, read_image, unit_range
from eachmask.structures import UserError

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (24, 31, 3)).astype(np.uint8)
RGB16 = RNG.integers(0, 65536, (24, 31, 3)).astype(np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".jpg"])
def test_eight_bit_color(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    smooth = cv2.GaussianBlur(RGB, (0, 0), 4)
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    Image.fromarray(smooth).save(path, **options)
    image = read_image(path)
    assert image.dtype == np.uint8 and image.shape == RGB.shape
    assert np.abs(image.astype(int) - smooth).max() <= (5 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sixteen_bit_keeps_all_bits(tmp_path: Path, compression: str | None) -> None:
    tifffile.imwrite(tmp_path / "c.tif", RGB16, photometric="rgb", compression=compression)
    tifffile.imwrite(tmp_path / "g.tif", RGB16[..., 0], compression=compression)
    cv2.imwrite(str(tmp_path / "c.png"), RGB16[..., ::-1])
    cv2.imwrite(str(tmp_path / "lzw.tif"), RGB16[..., ::-1])  # OpenCV writes LZW
    Image.fromarray(RGB16[..., 0]).save(tmp_path / "g.png")
    for name in ("c.tif", "c.png", "lzw.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), RGB16, err_msg=name)
    for name in ("g.tif", "g.png"):
        np.testing.assert_array_equal(read_image(tmp_path / name), RGB16[..., :1].repeat(3, 2), err_msg=name)


def test_planar_and_float_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "p.tif", RGB16.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "p.tif"), RGB16)
    counts = RNG.normal(500, 90, (20, 30)).astype(np.float32)
    tifffile.imwrite(tmp_path / "f.tif", counts)
    image = read_image(tmp_path / "f.tif")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[..., 0], counts)
    scaled = unit_range(image)
    assert scaled.min() == 0 and scaled.max() == 1


def test_gray_palette_bilevel_cmyk(tmp_path: Path) -> None:
    Image.fromarray(RGB[..., 0]).save(tmp_path / "l.png")
    np.testing.assert_array_equal(read_image(tmp_path / "l.png"), RGB[..., :1].repeat(3, 2))
    palette = Image.fromarray(RGB).quantize(17)
    palette.save(tmp_path / "p.png")
    palette.save(tmp_path / "p.tif")
    for name in ("p.png", "p.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), np.asarray(palette.convert("RGB")), err_msg=name)
    Image.fromarray(RGB[..., 0] > 128).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png")[..., 0], (RGB[..., 0] > 128) * 255)
    cmyk = Image.fromarray(RGB).convert("CMYK")
    cmyk.save(tmp_path / "k.tif")
    assert np.abs(read_image(tmp_path / "k.tif").astype(int) - RGB).max() <= 1


def test_transparency_is_composited_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[0, :, 3] = (0, 128, 255)
    pixels[1, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0].tolist() == [[255, 255, 255], [227, 127, 127], [200, 0, 0]]
    pixels[..., 3] = 0  # an alpha channel that means nothing
    Image.fromarray(pixels).save(tmp_path / "b.png")
    assert (read_image(tmp_path / "b.png")[..., 0] == 200).all()
    deep = np.dstack([RGB16, np.full(RGB16.shape[:2], 65535, np.uint16)])
    cv2.imwrite(str(tmp_path / "d.png"), deep[..., [2, 1, 0, 3]])
    np.testing.assert_array_equal(read_image(tmp_path / "d.png"), RGB16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    upright = orient(RGB, orientation)
    for name in ("a.png", "a.tif", "a.webp"):
        Image.fromarray(RGB).save(tmp_path / name, exif=exif, **({"lossless": True} if "webp" in name else {}))
        np.testing.assert_array_equal(read_image(tmp_path / name), upright, err_msg=name)
        np.testing.assert_array_equal(read_image(tmp_path / name, upright=False), RGB, err_msg=name)
        np.testing.assert_array_equal(as_array(Image.open(tmp_path / name)), upright, err_msg=name)
    tags = [(274, "H", 1, orientation, False)]
    for compression in (None, "zlib"):
        tifffile.imwrite(tmp_path / "d.tif", RGB16, photometric="rgb", compression=compression, extratags=tags)
        np.testing.assert_array_equal(read_image(tmp_path / "d.tif"), orient(RGB16, orientation))


def test_orient_is_what_pillow_does() -> None:
    from PIL import ImageOps

    for orientation in range(1, 9):
        image = Image.fromarray(RGB)
        image.getexif()[274] = orientation
        np.testing.assert_array_equal(orient(RGB, orientation), np.asarray(ImageOps.exif_transpose(image)))


def test_pages_without_thumbnails(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    with tifffile.TiffWriter(path) as tiff:
        for i in range(3):
            tiff.write(RGB16 // (i + 1), photometric="rgb")
            tiff.write(RGB[::2, ::2], photometric="rgb", subfiletype=1)
    assert num_pages(path) == 3
    np.testing.assert_array_equal(read_image(path, page=3), RGB16 // 3)
    with pytest.raises(UserError, match="no page 4: its pages are 1 to 3"):
        read_image(path, page=4)
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert num_pages(tmp_path / "a.png") == 1


@pytest.mark.parametrize("bigtiff", [False, True])
def test_pages_that_were_cut_off_are_missed(tmp_path: Path, bigtiff: bool) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, RGB16.transpose(2, 0, 1), photometric="minisblack", bigtiff=bigtiff)
    assert num_pages(path) == 3
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # the directories of pages 2 and 3 are at the end
    assert num_pages(path) == 2
    np.testing.assert_array_equal(read_image(path)[..., 0], RGB16[..., 0])
    with pytest.raises(UserError, match=r"stack.tif is cut off: page 2 and what follows it are missing"):
        read_image(path, page=2)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_a_channel_of_data_is_no_transparency(tmp_path: Path, depth: type, planes: str) -> None:
    channels = RNG.integers(0, 256, (24, 31, 4)).astype(depth)  # the fourth may be near infrared
    stored = channels if planes == "contig" else channels.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planes, extrasamples=["unspecified"])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), channels[..., :3])
    for num in (2, 4):  # dyes
        dyes = channels[..., :num] if planes == "contig" else channels.transpose(2, 0, 1)[:num]
        tifffile.imwrite(tmp_path / "dyes.tif", dyes, photometric="minisblack", planarconfig=planes)
        with pytest.raises(UserError, match=f"dyes.tif has {num} channels, but gray or RGB"):
            read_image(tmp_path / "dyes.tif")


def test_what_arrays_are_told_names_the_file_too(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "waves.tif", np.zeros((8, 9), np.complex64))
    with pytest.raises(UserError, match=r"waves.tif: an image of type complex64"):
        read_image(tmp_path / "waves.tif")


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes are files elsewhere only")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe.png is no file but a pipe"):
        read_image(tmp_path / "pipe.png")


def _png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))))
    data = (struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(data)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.png", b"", "is empty"),
        ("text.jpg", b"hello", "not an image"),
        ("cut.png", None, "is damaged"),
        ("cut16.png", None, "is damaged"),
        ("cut.jpg", None, "is damaged"),
        ("cut.tif", None, "is damaged"),
        ("cut16.tif", None, "is damaged"),
        ("bomb.png", _png_header(100_000, 100_000), "10,000 megapixels, more than the limit of 250"),
        ("none.png", "missing", "does not exist"),
        ("folder.png", "folder", "is a folder"),
        ("header.tif", b"II*\0\xff\xff\xff\x7f", "is damaged"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, data: bytes | str | None, reason: str
) -> None:
    path = tmp_path / name
    if data is None:
        if "16" in name and name.endswith("tif"):
            tifffile.imwrite(path, RGB16, photometric="rgb", compression="zlib")
        elif "16" in name:
            cv2.imwrite(str(path), RGB16)
        else:
            Image.fromarray(RGB).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif data == "folder":
        path.mkdir()
    elif isinstance(data, bytes):
        path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read_image(path)
    assert str(path) in str(error.value) and reason in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_size_limit_comes_before_decoding_and_leaves_pillow_alone(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    Image.new("L", (200, 100)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((100, 200), np.uint16))
    for name in ("a.png", "a.tif"):
        assert read_image(tmp_path / name, max_pixels=20_000).shape == (100, 200, 3)
        with pytest.raises(UserError, match="200 x 100"):
            read_image(tmp_path / name, max_pixels=19_999)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_arrays_tensors_and_pil() -> None:
    for given in (RGB, torch.from_numpy(RGB).permute(2, 0, 1), Image.fromarray(RGB)):
        np.testing.assert_array_equal(as_array(given), RGB)
    gray = RGB[..., 0]
    for given in (gray, gray[..., None], torch.from_numpy(gray), torch.from_numpy(gray)[None], Image.fromarray(gray)):
        np.testing.assert_array_equal(as_array(given), gray[..., None].repeat(3, 2))
    assert as_array(RGB.astype(np.int64)).dtype == np.uint8
    assert as_array(RGB16.astype(">u2")).dtype == np.dtype("uint16")
    assert as_array(torch.rand(3, 4, 5, dtype=torch.float16)).dtype == np.float32
    assert as_array(gray > 9).max() == 255


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        (RGB.transpose(2, 0, 1), "transpose"),
        (torch.from_numpy(RGB), "permute"),
        (np.zeros((9, 5, 2)), "1, 3 or 4 channels"),
        (np.zeros((1, 4, 5, 3)), "1, 3 or 4 channels"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((4, 5), complex), "convert it"),
        ("a.png", "a path"),
    ],
)
def test_wrong_shapes_say_the_remedy(given: object, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy):
        as_array(given)  # type: ignore[arg-type]


# Pages and channels of microscopes ----------------------------------------------------------------


def test_pages_cost_the_same_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for i in range(300):
            writer.write(np.full((4, 4), i % 251, np.uint8), contiguous=False, metadata=None)
    made = []
    real = tifffile.TiffPage.__init__
    monkeypatch.setattr(tifffile.TiffPage, "__init__", lambda *a, **k: (made.append(1), real(*a, **k))[1])
    assert num_pages(tmp_path / "a.tif") == 300
    made.clear()
    for page in (300, 1, 150):
        assert read_image(tmp_path / "a.tif", page=page)[0, 0, 0] == (page - 1) % 251
    assert len(made) <= 6


def test_a_page_of_8_bits_above_pillows_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for i in range(2):
            writer.write(np.full((40, 50), i, np.uint8), compression="zlib")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(tmp_path / "a.tif", page=2).max() == 1
    assert Image.MAX_IMAGE_PIXELS == 100


def test_zstd(tmp_path: Path) -> None:
    image = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20
    try:
        Image.fromarray(image).save(tmp_path / "zstd.tif", compression="zstd")
    except OSError:
        pytest.skip("this Pillow was built without zstd")
    for channels in ((), (1,), (1, 1, 1)):
        assert np.array_equal(read_image(tmp_path / "zstd.tif", channels=channels)[..., 0], image)
    with pytest.raises(UserError, match="its channels are 1 to 1"):
        read_image(tmp_path / "zstd.tif", channels=(2,))


def test_12_bits(tmp_path: Path) -> None:
    image = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20
    twelve = (image >> 4).reshape(-1, 2)
    packed = np.stack([twelve[:, 0] >> 4, (twelve[:, 0] & 15) << 4 | twelve[:, 1] >> 8, twelve[:, 1] & 255], 1)
    tags = {256: 64, 257: 48, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 48, 279: packed.size}
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in tags.items())
    data = struct.pack("<2sHI", b"II", 42, 8 + packed.size) + packed.astype(np.uint8).tobytes()
    (tmp_path / "12.tif").write_bytes(data + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0")
    assert np.array_equal(read_image(tmp_path / "12.tif")[..., 0], image >> 4 << 4)


def test_a_stack_of_imagej_with_one_directory(tmp_path: Path) -> None:
    stack = np.arange(3 * 8 * 9, dtype=np.uint16).reshape(3, 8, 9)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, imagej=True) as writer:
        writer.write(stack, truncate=True, metadata={"axes": "CYX"})
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 1
    assert num_pages(path) == 3 and num_pages(path, (1,)) == 1
    for page in (1, 2, 3):
        assert np.array_equal(read_image(path, page=page)[..., 0], stack[page - 1])
    assert np.array_equal(read_image(path, channels=(3, 1, 2)), stack[[2, 0, 1]].transpose(1, 2, 0))
    path.write_bytes(path.read_bytes()[: -8 * 9 * 2])
    with pytest.raises(UserError, match="page 3 and what follows it are missing"):
        read_image(path, page=3)


def test_channels_are_chosen(tmp_path: Path) -> None:
    stack = np.arange(2 * 5 * 6 * 7, dtype=np.uint16).reshape(2, 5, 6, 7)
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, metadata={"axes": "ZCYX"})
    assert num_pages(tmp_path / "a.ome.tif") == 10 and num_pages(tmp_path / "a.ome.tif", (4,)) == 2
    assert np.array_equal(read_image(tmp_path / "a.ome.tif", page=2, channels=(4,))[..., 1], stack[1, 3])
    with pytest.raises(UserError, match="has no channel 6: its channels are 1 to 5"):
        read_image(tmp_path / "a.ome.tif", channels=(6,))
    tifffile.imwrite(tmp_path / "b.tif", stack[0], planarconfig="separate", photometric="minisblack")
    with pytest.raises(UserError, match="--channel"):
        read_image(tmp_path / "b.tif")
    assert np.array_equal(read_image(tmp_path / "b.tif", channels=(5, 1, 2))[..., 0], stack[0, 4])
    color = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(color).save(tmp_path / "c.png")
    assert np.array_equal(read_image(tmp_path / "c.png", channels=(2,))[..., 0], color[..., 1])


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_without_most_of_its_rows_is_named(tmp_path: Path, interlaced: bool) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50, 40, 8, 2, 0, 0, int(interlaced))
    for rows, is_whole in (bytes(9 * 151), False), (bytes(40 * 151 + 100 * interlaced), True):
        data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
        if is_whole:
            assert read_image(tmp_path / "a.png").shape == (40, 50, 3)
        else:
            with pytest.raises(UserError, match="is cut off: only 2.% of its rows|truncated"):
                read_image(tmp_path / "a.png")


def test_heic_is_read_where_the_package_for_it_is_there(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    pixels = np.full((40, 60, 3), 90, np.uint8)
    pixels[:20] = 200
    heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "a.heic", quality=90)
    assert np.abs(read_image(tmp_path / "a.heic").astype(int) - pixels).mean() < 4


def test_heic_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(UserError, match="eachmask.heic"):
        read_image(tmp_path / "a.heic")
