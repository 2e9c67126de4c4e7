"""Writes the pictures that the style configs use into pictures/: python configs/pictures.py

The photographs are scikit-image's (public domain: `chelsea` by Stefan van der Walt, `coffee` by
Rachel Michetti, `astronaut` by NASA, `rocket` by SpaceX); `pip install '.[demo]'` brings them.  The
style pictures are made here in code.
"""

from pathlib import Path

from PIL import Image
from skimage import data

from style.images.synthetic_styles import hatching, mosaic, strokes
from vgg_normalize.data import synthetic


def main() -> None:
    folder = Path("pictures")
    folder.mkdir(exist_ok=True)
    Image.fromarray(data.chelsea()).save(folder / "cat.png")
    Image.fromarray(data.astronaut()).save(folder / "astronaut.png")
    Image.fromarray(data.coffee()).save(folder / "coffee.png")
    Image.fromarray(data.rocket()).save(folder / "rocket.png")
    Image.fromarray(strokes(512, 640)).save(folder / "strokes.png")
    Image.fromarray(mosaic(512, 640)).save(folder / "mosaic.png")
    Image.fromarray(hatching(512, 640)).save(folder / "hatching.png")
    leaves = Image.fromarray(synthetic.picture(4)).resize((480, 660), Image.Resampling.LANCZOS)
    leaves.save(folder / "leaves.png")


if __name__ == "__main__":
    main()
