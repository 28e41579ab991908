"""One picture from bytes to pixels of a fixed size, or the reason why not (pure: PIL and numpy)."""

import io
import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Framing = Literal["crop", "pad", "smart"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Box = tuple[int, int, int]  # left, top, side
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # more than 8 bits a value


class BadPicture(ValueError):
    """A picture that cannot be used; the message is the reason, in a few words."""


def decode(content: bytes, min_side: int, max_side: int, wanted: int | None = None) -> Image.Image:
    """Return an upright RGB picture.

    Grey, palette, CMYK and 16-bit pictures become 8-bit RGB; what is transparent becomes white.

    Args:
        content: Bytes of the file.
        min_side: Least pixels of the shorter side.
        max_side: Most pixels of the longer side; a larger one is refused before it takes memory.
        wanted: Side that it will be scaled to: a much larger JPEG is then read at a half, quarter or eighth of its
            size, still at least twice as large, which saves most of the time.

    Raises:
        BadPicture: It is empty, not a picture, cut short, or of a forbidden size.
    """
    if not content:
        raise BadPicture("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL on odd metadata and large pictures; the size is checked here
            picture = Image.open(io.BytesIO(content))
            if min(picture.size) < min_side:
                raise BadPicture(f"{picture.width} x {picture.height} pixels, the shorter side needs {min_side}")
            if max(picture.size) > max_side:
                raise BadPicture(f"{picture.width} x {picture.height} pixels, the longer side may have {max_side}")
            if wanted is not None:
                picture.draft("RGB" if picture.mode in ("RGB", "YCbCr") else None, (2 * wanted, 2 * wanted))
            return _rgb(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError as error:
        raise BadPicture("not a picture that can be read") from error
    except Image.DecompressionBombError as error:
        raise BadPicture(f"too many pixels to unpack, the longer side may have {max_side}") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, BadPicture):
            raise
        raise BadPicture(f"broken or cut short ({error})") from error


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in _DEEP:  # PIL would clip at 255
        values = np.asarray(picture, dtype=np.float64)
        top = 65535.0 if picture.mode.startswith("I") else max(float(values.max()), 1.0)
        picture = Image.fromarray(np.clip(values * (255.0 / top), 0, 255).round().astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def framed(
    picture: Image.Image,
    size: int,
    framing: Framing,
    interpolation: Interpolation,
    smart_box: Callable[[np.ndarray], Box] | None = None,
) -> np.ndarray:
    """Return (3, size, size) uint8: a square part of a picture, or all of it on black, never distorted.

    Args:
        picture: RGB.
        size: Side of the result in pixels.
        framing: ``crop`` takes the largest central square, ``pad`` the whole picture on a black square, ``smart`` the
            square of ``smart_box``.
        interpolation: How it is scaled.
        smart_box: From (H, W, 3) uint8 to the square to keep.
    """
    width, height = picture.size
    how = RESAMPLING[interpolation]
    if framing == "pad":
        scale = size / max(width, height)
        small = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), how)
        whole = Image.new("RGB", (size, size))
        whole.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    else:
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        if framing == "smart" and smart_box is not None:
            left, top, side = smart_box(np.array(picture))
        whole = picture.resize((size, size), how, box=(left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(whole, dtype=np.uint8).transpose(2, 0, 1))


def timm_picture(
    model: str | None, size: int | None, crop: float | None, interpolation: Interpolation | None
) -> tuple[int, float, Interpolation]:
    """Return size, crop and interpolation, those that are left out from a timm model's own data config.

    Raises:
        ValueError: For an unknown model, one that has nothing to give, a value that is left out without a model, or one
            outside of its range.
    """
    if model is not None and None not in (size, crop, interpolation):
        raise ValueError(f"timm_config={model!r} has no effect: set those of image_size, crop and interpolation to "
                         "null that it should give")  # fmt: skip
    if model is not None:
        from timm.data import resolve_data_config
        from timm.models import get_pretrained_cfg, is_model

        if not is_model(model.split(".")[0]):
            raise ValueError(f"timm_config={model!r} is no model of timm; `timm.list_models()` names them")
        own = resolve_data_config(pretrained_cfg=get_pretrained_cfg(model).to_dict())
        size, crop = size or own["input_size"][-1], crop or own["crop_pct"]
        interpolation = interpolation or own["interpolation"]
    if size is None or crop is None or interpolation is None:
        raise ValueError("without timm_config, image_size, crop and interpolation are needed")
    if size < 8 or not 0 < crop <= 1 or interpolation not in RESAMPLING:
        raise ValueError(f"need image_size >= 8, crop in (0, 1] and a known interpolation, got {size}, {crop} and "
                         f"{interpolation!r} ({', '.join(RESAMPLING)})")  # fmt: skip
    return size, crop, interpolation
