"""Two packages: vgg_normalize (networks, means, proof) and style (image optimisation on them)."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "vgg_normalize" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

# The first tf2onnx that works with the protobuf of TensorFlow 2.20 and later.
ONNX = ["tf2onnx>=1.17", "onnx", "onnxruntime"]
LITERT = ["ai-edge-litert"]
STUDIO = ["gradio>=6,<7"]

setup(
    name="vgg-normalize",
    version=VERSION,
    description="VGG features normalised to mean activation one, proved, and style transfer on them",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The vgg-normalize authors",
    license="MIT",
    license_files=["LICENSE"],
    keywords=[
        "VGG19",
        "normalised weights",
        "neural style transfer",
        "texture synthesis",
        "feature inversion",
        "AdaIN",
        "TensorFlow",
        "Keras",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Graphics",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["vgg_normalize*", "style*"]),
    package_data={"vgg_normalize": ["resources/*", "py.typed"], "style": ["py.typed"]},
    zip_safe=False,  # type checkers read the packages as files
    python_requires=">=3.11",
    install_requires=[
        "tensorflow>=2.18",
        "keras>=3.6",
        "numpy",
        "h5py",
        "pillow>=10.1",
        "safetensors",
        "simplejpeg",  # tells a damaged JPEG from a whole one
        "absl-py",
        "tensorflow-datasets",
        "importlib_resources",  # tensorflow-datasets needs it and does not ask for it
        "tqdm",
        "matplotlib",  # the figures of the report
    ],
    extras_require={
        "test": [
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "scipy",
            "ruff",
            "mypy",
            "types-tqdm",
            "nbclient",
            "ipykernel",
            "scikit-image",
            "av",
            "POT",
            "pyyaml",
            *ONNX,
            *LITERT,
            *STUDIO,
            "playwright",  # drives the Chromium of the distribution; its own is not needed
            "axe-playwright-python",
        ],
        "demo": ["scikit-image"],
        "video": ["av"],
        "onnx": ONNX,
        "litert": LITERT,
        "studio": [*STUDIO, "scikit-image"],
    },
    entry_points={
        "console_scripts": [
            "vgg-normalize=vgg_normalize.__main__:console",
            "style-transfer=style.__main__:console",
            "style-train=style.train:console",
            "style-apply=style.apply:console",
            "style-studio=style.studio.__main__:console",
        ]
    },
)
