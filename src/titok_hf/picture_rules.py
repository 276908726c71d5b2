"""What the image processor and the preparation of data do alike: transparent pixels, and the largest image."""

from PIL import Image, ImageColor, ImageOps

# Pillow warns from this size on (89 megapixels): such a file is more often an attack than a photo.
MAX_PIXELS = 89_478_485

# Behind transparent pixels. The files hold some colour there, too, but nobody has seen it.
BACKGROUND = "white"
NO_BACKGROUND = "none"


def background_colour(background: str) -> tuple[int, int, int] | None:
    """
    A colour as numbers in [0, 255].

    Args:
        background: a name or number of CSS; "none" drops alpha and shows the hidden colours, as the original does.

    Returns:
        red, green and blue; None for "none".
    Raises:
        ValueError: it names no colour.
    """
    if background == NO_BACKGROUND:
        return None
    try:
        red, green, blue = ImageColor.getrgb(background)[:3]
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f'background is {background!r}; it has to be a colour, such as "white" or "#00ff00", or "{NO_BACKGROUND}".'
        ) from error
    return red, green, blue


def upright(image: Image.Image, in_place: bool = False) -> Image.Image:
    """
    A PIL image turned as the orientation in its EXIF block says.

    A damaged block turns nothing: the pixels are whole, and every viewer shows them.

    Args:
        in_place: turn the image itself, which saves a copy of those that are upright already.
    """
    try:
        if in_place:
            ImageOps.exif_transpose(image, in_place=True)
            return image
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # Pillow answers damage with whatever its reading ends in, SyntaxError among it
        return image


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel of an image can be seen through."""
    if not image.has_transparency_data:
        return False
    least, _ = _with_alpha(image).getchannel("A").getextrema()
    return least != 255


def laid_on(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """A transparent image in RGB, in front of a colour."""
    image = _with_alpha(image)
    canvas = Image.new("RGB", image.size, colour)
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


def _with_alpha(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGBA" else image.convert("RGBA")


__all__ = ["BACKGROUND", "MAX_PIXELS", "NO_BACKGROUND", "background_colour", "is_transparent", "laid_on", "upright"]
