"""Pictures of every kind to pixels, decoded once and kept, or a reason why not."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from datamodules.errors import DataError
from datamodules.plants_decoded import DecodedImages, stamp_of
from datamodules.plants_images import BadPicture, decode, framed, timm_picture
from tests.fake_data.plants import picture


def saved(image: Image.Image, kind: str = "PNG", **more) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def test_cmyk_deep_palette_grey_and_transparent_pictures_become_rgb():
    plain = picture(1)
    cmyk = decode(saved(plain.convert("CMYK"), "JPEG", quality=95), 1, 100)
    assert cmyk.mode == "RGB" and abs(np.asarray(cmyk, int) - np.asarray(plain, int)).mean() < 12
    deep = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    found = np.asarray(decode(saved(Image.fromarray(deep)), 1, 100))
    assert abs(found[..., 0].astype(float) - deep / 257).max() <= 1  # scaled, and not cut off at 255
    assert decode(saved(plain.convert("P")), 1, 100).mode == "RGB"
    assert decode(saved(plain.convert("L")), 1, 100).mode == "RGB"
    clear = Image.new("RGBA", (20, 20), (10, 20, 30, 0))
    assert np.asarray(decode(saved(clear), 1, 100)).min() == 255


def test_a_turned_photo_stands_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert decode(saved(picture(1, 40, 20), "JPEG", exif=exif), 1, 100).size == (20, 40)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"this is no picture", "not a picture"),
        (saved(picture(1), "JPEG")[:300], "broken or cut short"),
        (saved(picture(1))[:200], "broken or cut short"),
        (saved(Image.new("RGB", (1, 1))), "1 x 1 pixels, the shorter side needs 16"),
        (saved(Image.new("1", (20000, 20))), "20000 x 20 pixels, the longer side may have 12000"),
    ],
)
def test_what_cannot_be_used_says_why(content, reason):
    with pytest.raises(BadPicture, match=reason):
        decode(content, 16, 12000)


def test_a_large_jpeg_is_read_small_but_not_too_small():
    big = Image.fromarray(np.asarray(picture(3, 800, 600)))
    content = saved(big, "JPEG", quality=95)
    small = decode(content, 1, 1000, wanted=64)
    assert small.size == (200, 150)  # a quarter: still twice what is wanted
    one, other = (framed(image, 64, "crop", "bicubic").astype(int) for image in (small, decode(content, 1, 1000)))
    assert abs(one - other).mean() < 3


def test_framing_keeps_proportions():
    wide = Image.new("RGB", (80, 20), "white")
    wide.paste("red", (30, 0, 50, 20))
    middle = framed(wide, 20, "crop", "nearest")
    assert (middle[0] == 255).all() and (middle[1] == 0).all()  # the red square only
    padded = framed(wide, 40, "pad", "nearest")
    assert (padded[:, :15] == 0).all() and (padded[:, 25:] == 0).all()  # black above and below
    assert (padded[0, 15:25] == 255).all() and (padded[1, 15:25, 15:25] == 0).all()
    smart = framed(wide, 20, "smart", "nearest", lambda rgb: (60, 0, 20))
    assert (smart == 255).all()


def test_values_left_out_come_from_timm():
    assert timm_picture("vit_base_patch16_224", None, None, None) == (224, 0.9, "bicubic")
    assert timm_picture("vit_base_patch16_224", 96, None, "bilinear") == (96, 0.9, "bilinear")
    with pytest.raises(ValueError, match="is no model of timm"):
        timm_picture("vit_of_mine", None, None, None)
    with pytest.raises(ValueError, match="timm_config='vit_base_patch16_224' has no effect: set those of"):
        timm_picture("vit_base_patch16_224", 64, 0.9, "bilinear")
    with pytest.raises(ValueError, match="without timm_config"):
        timm_picture(None, 64, None, "bicubic")


# -- decoded once -----------------------------------------------------------------------------------------------------


class Folder:
    """Pictures in memory that count how often they are read."""

    def __init__(self, content: list[bytes]) -> None:
        self.content, self.reads = content, 0

    def read(self, i: int) -> bytes:
        self.reads += 1
        return self.content[i]


def take(store: DecodedImages, source: Folder, stamps: list[str] | None = None):
    keys = [f"{i}.png" for i in range(len(source.content))]
    return store.take(keys, stamps or ["1"] * len(keys), source.read)


def test_a_picture_is_decoded_once_and_a_copy_not_again(tmp_path):
    content = [saved(picture(i)) for i in range(5)]
    source = Folder([*content, content[2], b"", content[0][:50]])
    store = DecodedImages(str(tmp_path), 24, "crop", "bicubic", 8, 100)
    found = take(store, source)
    assert found.pixels.shape == (5, 3, 24, 24) and found.rows.tolist() == [0, 1, 2, 3, 4, 2, -1, -1]
    assert found.hashes[5] == found.hashes[2] and found.problems[6] == "the file is empty"
    assert isinstance(found.pixels, np.memmap)
    for i in range(5):
        expected = framed(decode(content[i], 8, 100, 24), 24, "crop", "bicubic")
        assert np.array_equal(found.pixels[i], expected)
    source.reads = 0
    again = take(DecodedImages(str(tmp_path), 24, "crop", "bicubic", 8, 100), source)
    assert source.reads == 2  # only what could not be used is tried again
    assert again.rows.tolist() == found.rows.tolist() and np.array_equal(again.pixels, found.pixels)


def test_a_changed_file_and_another_size_are_decoded_anew(tmp_path):
    source = Folder([saved(picture(i)) for i in range(3)])
    store = DecodedImages(str(tmp_path), 24, "crop", "bicubic", 8, 100)
    take(store, source)
    source.content[1] = saved(picture(9))
    found = take(store, source, ["1", "2", "1"])
    assert found.read == 1 and found.rows.tolist() == [0, 3, 2]
    assert take(DecodedImages(str(tmp_path), 16, "crop", "bicubic", 8, 100), source).read == 3


def test_the_limits_of_the_sides_hold_for_pictures_that_were_decoded_before(tmp_path):
    source = Folder([saved(picture(1))])
    side = min(picture(1).size)
    for least, kept in ((8, True), (side + 1, False), (8, True)):
        found = take(DecodedImages(str(tmp_path), 24, "crop", "bicubic", least, 100), source)
        assert (found.rows[0] >= 0) == kept
    assert take(DecodedImages(str(tmp_path), 24, "crop", "bicubic", 8, side), source).rows[0] == -1


def test_a_process_killed_in_the_middle_leaves_nothing_wrong(tmp_path, monkeypatch):
    source = Folder([saved(picture(i)) for i in range(4)])
    store = DecodedImages(str(tmp_path), 24, "crop", "bicubic", 8, 100)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_store", lambda index: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            take(store, source)
    found = take(store, source)
    assert found.read == 4
    for i in range(4):
        assert np.array_equal(found.pixels[i], framed(decode(source.content[i], 8, 100), 24, "crop", "bicubic"))


def test_a_missing_file_and_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    store = DecodedImages(str(tmp_path), 24, "crop", "bicubic", 8, 100)
    found = take(store, Folder([saved(picture(1)), b""]), ["1", stamp_of(str(tmp_path / "absent.jpg"))])
    assert found.problems == ["", "the file does not exist"]
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot hold decoded pictures"):
        DecodedImages(str(tmp_path / "file"), 24, "crop", "bicubic", 8, 100)

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("datamodules.plants_decoded.ThreadPoolExecutor", full)
    with pytest.raises(DataError, match=r"No space left on device.*--data.decoded"):
        take(DecodedImages(str(tmp_path / "other"), 24, "crop", "bicubic", 8, 100), Folder([saved(picture(1))]))
