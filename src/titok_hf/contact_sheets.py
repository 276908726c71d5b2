"""Contact sheets: many images in one."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

# Small images are enlarged to cells of about this many pixels.
_COMFORTABLE_CELL = 128
_GAP = 4
_FONT_SIZE = 14
_PAPER = (255, 255, 255)
_INK = (40, 40, 40)


def contact_sheet(
    images: Sequence[Image.Image], columns: int, scale: int | None = None, labels: Sequence[str] | None = None
) -> Image.Image:
    """
    Arrange images of one size in rows, from left to right and from top to bottom.

    Args:
        images: at least one image, all of the size of the first.
        columns: images in a row.
        scale: how many times each image is enlarged, without smoothing. By default, small images are enlarged to about
            128 pixels.
        labels: a text for each row, written in a margin on the left.

    Returns:
        the sheet, RGB.

    Raises:
        ValueError: no images, sizes that differ, no column, or another number of labels than of rows.
    """
    images = list(images)
    if not images:
        raise ValueError("A contact sheet needs at least one image, and the list is empty.")
    if columns < 1:
        raise ValueError(f"columns is {columns}. A contact sheet needs at least one.")
    width, height = images[0].size
    for image in images:
        if image.size != (width, height):
            raise ValueError(f"The images have sizes {(width, height)} and {image.size}. Give images of one size.")
    rows = -(-len(images) // columns)
    if labels is not None and len(labels) != rows:
        raise ValueError(f"{len(labels)} labels were given for {rows} rows. Give one a row.")
    scale = scale or max(1, round(_COMFORTABLE_CELL / max(width, height)))
    width, height = width * scale, height * scale

    font = ImageFont.load_default(size=_FONT_SIZE)
    margin = _GAP
    if labels:
        margin = 3 * _GAP + max(int(font.getlength(label)) for label in labels)
    sheet = Image.new("RGB", (margin + columns * (width + _GAP), _GAP + rows * (height + _GAP)), _PAPER)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        enlarged = image.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (margin + column * (width + _GAP), _GAP + row * (height + _GAP)))
    if labels:
        draw = ImageDraw.Draw(sheet)
        for row, label in enumerate(labels):
            middle = _GAP + row * (height + _GAP) + height // 2
            draw.text((_GAP, middle), label, fill=_INK, font=font, anchor="lm")
    return sheet


def paired_contact_sheet(
    originals: Sequence[Image.Image], reconstructions: Sequence[Image.Image], columns: int, labelled: bool = True
) -> Image.Image:
    """
    A row of originals above the row of their reconstructions, and so on.

    Args:
        originals, reconstructions: equally many images, at least one, all of one size.
        columns: the most images in a row. White images fill the last two rows.
        labelled: whether "original" and "TiTok" stand beside the rows.
    """
    columns = min(columns, len(originals))
    blank = Image.new("RGB", originals[0].size, _PAPER)
    cells: list[Image.Image] = []
    labels: list[str] = []
    for start in range(0, len(originals), columns):
        for label, images in (("original", originals), ("TiTok", reconstructions)):
            row = list(images[start : start + columns])
            cells += row + [blank] * (columns - len(row))
            labels.append(label)
    return contact_sheet(cells, columns, labels=labels if labelled else None)
