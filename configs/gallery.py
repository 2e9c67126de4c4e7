"""Lays the pictures of the configs into one sheet, gallery.jpg: python configs/gallery.py

First make them: python configs/pictures.py, and then python -m style --flagfile configs/NAME.cfg for
transfer, amalgamation, texture, inversion and strength, all in the same folder.
"""

from PIL import Image, ImageDraw, ImageFont

HEIGHT, MARGIN, LABEL = 300, 10, 26
ROWS = (
    (
        ("content", "pictures/cat.png"),
        ("style", "pictures/strokes.png"),
        ("transfer", "transfer.png"),
    ),
    (
        ("content", "pictures/astronaut.png"),
        ("style", "pictures/leaves.png"),
        ("amalgamation", "amalgamation.png"),
        ("texture", "texture.png"),
    ),
    tuple(
        (f"inversion of block{block}_conv1", f"inversion_block{block}_conv1.png")
        for block in range(1, 6)
    ),
    (("the coffee in a mosaic at five strengths", "strength.png"),),
)


def row(entries: tuple[tuple[str, str], ...], width: int) -> Image.Image:
    """Pictures of one height, side by side with their names, as wide as the sheet."""
    pictures = [Image.open(path).convert("RGB") for _, path in entries]
    aspects = [picture.width / picture.height for picture in pictures]
    height = int(min(HEIGHT, (width - MARGIN * (len(pictures) + 1)) / sum(aspects)))
    if len(pictures) == 1:
        height = int((width - 2 * MARGIN) / aspects[0])
    sheet = Image.new("RGB", (width, height + LABEL), "white")
    draw, left = ImageDraw.Draw(sheet), MARGIN
    for (name, _), picture, aspect in zip(entries, pictures, aspects, strict=True):
        draw.text((left, 4), name, fill="black", font=ImageFont.load_default(16))
        scaled = picture.resize((int(height * aspect), height), Image.Resampling.LANCZOS)
        sheet.paste(scaled, (left, LABEL))
        left += scaled.width + MARGIN
    return sheet


def main() -> None:
    rows = [row(entries, 1280) for entries in ROWS]
    sheet = Image.new("RGB", (1280, sum(r.height + MARGIN for r in rows)), "white")
    top = 0
    for one in rows:
        sheet.paste(one, (0, top))
        top += one.height + MARGIN
    sheet.save("gallery.jpg", quality=90)


if __name__ == "__main__":
    main()
