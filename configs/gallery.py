"""Lays the pictures of the configs into one sheet, gallery.jpg: python configs/gallery.py

First make them: python configs/pictures.py, and then python -m style --flagfile configs/NAME.cfg for
transfer, neighbors, amalgamation, texture, inversion, strength, sliced and seamless, all in the same
folder, and once more sliced with --style_loss=gram --output=sliced_gram.png.
"""

from PIL import Image, ImageDraw, ImageFont

HEIGHT, MARGIN, LABEL = 300, 10, 26
ROWS = (
    (
        ("content", "pictures/cat.png"),
        ("style", "pictures/strokes.png"),
        ("transfer", "transfer.png"),
        ("the style's nearest features", "neighbors.png"),
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
    (
        ("a mosaic", "pictures/mosaic.png"),
        ("from noise by Gram matrices", "sliced_gram.png"),
        ("by sliced Wasserstein", "sliced.png"),
        ("without seams, 2 x 2", "seamless.png"),
    ),
)
# Laid side by side four times, to show that they have no seam.
REPEATED = ("seamless.png",)


def load(path: str) -> Image.Image:
    picture = Image.open(path).convert("RGB")
    if path not in REPEATED:
        return picture
    sheet = Image.new("RGB", (2 * picture.width, 2 * picture.height))
    for left in (0, picture.width):
        for top in (0, picture.height):
            sheet.paste(picture, (left, top))
    return sheet


def row(entries: tuple[tuple[str, str], ...], width: int) -> Image.Image:
    """Pictures of one height, side by side with their names, as wide as the sheet."""
    pictures = [load(path) for _, path in entries]
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
