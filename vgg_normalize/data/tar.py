"""Images in an uncompressed tar, read in place."""

from __future__ import annotations

import contextlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from vgg_normalize.data.base import (
    Source,
    dataset_from_reader,
    digest,
    is_image_name,
    naming_errors,
)
from vgg_normalize.errors import ImagesError

# What users pass by mistake: a single image, known by its first bytes, or a file of weights.
IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8")
HDF5_START = b"\x89HDF"
WEIGHT_SUFFIXES = (
    ".h5",
    ".hdf5",
    ".keras",
    ".npz",
    ".npy",
    ".pth",
    ".pt",
    ".bin",
    ".safetensors",
    ".pb",
)


def open_tar(spec: str, path: Path, max_images: int = 0) -> Source:
    """Open a tar: only the positions of its members are read, and nothing is unpacked.

    Args:
        spec: What the user gave, for messages and reports.
        path: Its path.
        max_images: Number of images to take from the beginning (0: all).

    Raises:
        ImagesError: It is damaged, hostile, not a tar, or holds no images.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            members = [
                (member.name, member.offset_data, member.size)
                for member in _safe_members(archive, spec)
                if is_image_name(member.name)
            ]
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = f"cannot be read ({' '.join(str(error).split())}). Fetch it again or unpack it."
        raise ImagesError(
            f"Expected an uncompressed tar of pictures. Received: {spec!r}, which "
            f"{_describe_other_file(path) or reason}"
        ) from error
    if not members:
        raise ImagesError(
            f"Expected a tar of pictures. Received: no images under {spec!r}. Check the path."
        )
    members = members[: max_images or None]

    def read(index: int) -> tuple[str, bytes]:
        name, offset, size = members[index]
        with naming_errors(name), path.open("rb") as file:
            file.seek(offset)
            return name, file.read(size)

    sha256 = digest((name, size) for name, _, size in members)
    return Source(spec, len(members), sha256, dataset_from_reader(read), read)


def _describe_other_file(path: Path) -> str:
    """What a file other than a tar is, and what to give instead; "" if that is unknown."""
    start = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(8)
    if is_image_name(path.name) or start.startswith(IMAGE_STARTS):
        return "is a picture; give the folder that holds it."
    if path.suffix.lower() in WEIGHT_SUFFIXES or start.startswith(HDF5_START):
        return "is a file of weights; give a folder of pictures."
    return ""


def _safe_members(archive: tarfile.TarFile, spec: str) -> Iterator[tarfile.TarInfo]:
    """The regular files of a tar that is whole and whose paths stay inside it."""
    end = os.path.getsize(archive.name)  # type: ignore[arg-type]
    for member in archive:
        parts = Path(member.name).parts
        if member.name.startswith("/") or ".." in parts or member.isdev():
            raise ImagesError(
                f"Expected a tar with relative paths to pictures. Received: {spec!r} with the "
                f"member {member.name!r}. It may be hostile: do not use it."
            )
        if member.isfile():
            if member.offset_data + member.size > end:
                raise ImagesError(
                    f"Expected a whole tar. Received: {spec!r}, which ends inside "
                    f"{member.name!r}. Fetch it again."
                )
            yield member
    # Python's tarfile takes a truncated or damaged header for the end of the archive.
    file = archive.fileobj
    file.seek(archive.offset)  # type: ignore[union-attr]
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # type: ignore[union-attr]
        raise ImagesError(
            f"Expected a whole tar. Received: {spec!r}, which is cut or damaged at byte "
            f"{archive.offset}. Fetch it again."
        )
