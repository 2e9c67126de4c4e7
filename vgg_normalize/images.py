"""Where images come from: a folder, a tar, a TensorFlow data set, or the built-in sample.

A `Source` knows its pictures by index, so that reading can start anywhere, be shared between
workers, and every picture that was skipped can be named.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vgg_normalize import decode, sample
from vgg_normalize.errors import ImagesError

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp")
    + (".tif", ".tiff", ".avif", ".heic", ".jxl")
)
# What is given in place of a folder of pictures: single pictures, by their beginning, and weights.
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8")
_WEIGHTS = (".h5", ".hdf5", ".keras", ".npz", ".npy", ".pth", ".pt", ".bin", ".safetensors", ".pb")

_CORES = os.cpu_count() or 1
NOT_REGULAR = "not a regular file"
# Batches that wait decoded while the network computes.
PREFETCH = 2


class Source(NamedTuple):
    """Encoded pictures in a fixed order.

    Attributes:
        name: As the user gave it.
        total: How many pictures.
        sha256: Over the ordered names and sizes in bytes; another set gives another sum.
        encoded: Indices -> data set of (index, bytes) in their order; of a TensorFlow data set,
            which is read from its start to its end, they must ascend.
        read: index -> (name, bytes); raises OSError where it cannot be read.
        mixed: Whether the order is random, so that the first pictures stand for all.
    """

    name: str
    total: int
    sha256: str
    encoded: Callable[[np.ndarray], tf.data.Dataset]
    read: Callable[[int], tuple[str, bytes]]
    mixed: bool = False


def open_source(spec: str, *, max_images: int = 0, seed: int = 0, shuffle: bool = False) -> Source:
    """Open what `--images` names.

    Args:
        spec: A folder, a `.tar`, "tfds:NAME/SPLIT", or "sample".
        max_images: At most so many (0: all): a random choice for a folder, else the first.
        seed: Of the choice and of the order.
        shuffle: Read a folder in a random order.

    Raises:
        ImagesError: It cannot be read, or holds no pictures.
    """
    if max_images < 0:
        raise ImagesError(f"Expected max_images of 0 or more. Received: {max_images}. 0 means all.")
    if spec == "sample":
        return _sample(max_images)
    if spec.startswith("tfds:"):
        return _tfds(spec, max_images)
    path = Path(spec).expanduser()
    if os.path.isdir(path):
        return _folder(spec, path, max_images, seed, shuffle)
    if os.path.isfile(path):
        return _tar(spec, path, max_images)
    what = f"is {NOT_REGULAR}" if os.path.exists(path) else "does not exist"
    raise ImagesError(
        f"Expected a folder, a .tar, tfds:NAME/SPLIT or sample. Received: {spec!r}, which {what}. "
        "Check --images."
    )


def _digest(entries: Iterable[tuple[str, int]]) -> str:
    digest = hashlib.sha256()
    for name, size in entries:
        digest.update(os.fsencode(name) + b"\0" + str(size).encode() + b"\n")
    return digest.hexdigest()


def _from_python(
    read: Callable[[int], tuple[str, bytes]],
) -> Callable[[np.ndarray], tf.data.Dataset]:
    """A data set that reads in Python, one picture after the other."""

    def encoded(indices: np.ndarray) -> tf.data.Dataset:
        def generate() -> Iterator[tuple[int, bytes]]:
            for index in indices:
                yield int(index), read(int(index))[1]

        signature = (tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.string))
        return tf.data.Dataset.from_generator(generate, output_signature=signature)

    return encoded


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """An error of reading names the picture as the report does, not its place on the disk."""
    try:
        yield
    except OSError as error:
        error.filename = name
        raise


def _sample(max_images: int) -> Source:
    count = min(max_images or sample.COUNT, sample.COUNT)

    def read(index: int) -> tuple[str, bytes]:
        return f"sample/{index:04d}.png", sample.encoded(index)

    entries = ((f"sample/{i:04d}.png", int(np.prod(sample.size(i)))) for i in range(count))
    return Source("sample", count, _digest(entries), _from_python(read), read, mixed=True)


def _folder(spec: str, root: Path, max_images: int, seed: int, shuffle: bool) -> Source:
    names = sorted(_walk(root))
    if not names:
        raise ImagesError(
            f"Expected pictures ({', '.join(sorted(EXTENSIONS))}). Received: no images under "
            f"{spec!r}. Check --images."
        )
    if shuffle or 0 < max_images < len(names):
        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(names))
        chosen = order[: max_images or None]
        names = [names[i] for i in (chosen if shuffle else np.sort(chosen))]
    paths = [os.path.join(root, name) for name in names]

    found = [_status(path) for path in paths]
    # A pipe or a device would keep a reader waiting for ever: no file is "", so it is left out.
    irregular = {i for i, one in enumerate(found) if one and not stat.S_ISREG(one.st_mode)}

    def encoded(indices: np.ndarray) -> tf.data.Dataset:
        chosen = [b"" if i in irregular else os.fsencode(paths[i]) for i in indices]
        both = tf.data.Dataset.from_tensor_slices((indices, tf.constant(chosen, tf.string)))
        return both.map(
            lambda index, path: (index, tf.io.read_file(path)), num_parallel_calls=_CORES
        )

    def read(index: int) -> tuple[str, bytes]:
        with _naming(names[index]):
            if index in irregular:
                raise OSError(errno.EINVAL, NOT_REGULAR)
            return names[index], Path(paths[index]).read_bytes()

    digest = _digest((n, s.st_size if s else -1) for n, s in zip(names, found, strict=True))
    return Source(spec, len(names), digest, encoded, read, mixed=shuffle)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _walk(root: Path) -> Iterator[str]:
    """Relative paths of pictures; a folder reached twice through links is read once."""
    seen = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        for name in files:
            if os.path.splitext(name)[1].lower() in EXTENSIONS:
                yield os.path.relpath(os.path.join(folder, name), root)


def _tar(spec: str, path: Path, max_images: int) -> Source:
    """Reads in place: an index of the members' positions, and nothing is unpacked."""
    try:
        with tarfile.open(path, "r:") as archive:
            members = [
                (member.name, member.offset_data, member.size)
                for member in _safe_members(archive, spec)
                if os.path.splitext(member.name)[1].lower() in EXTENSIONS
            ]
    except (tarfile.TarError, EOFError, OSError) as error:
        what = f"cannot be read ({' '.join(str(error).split())}). Fetch it again or unpack it."
        raise ImagesError(
            f"Expected an uncompressed tar of pictures. Received: {spec!r}, which "
            f"{_other_kind(path) or what}"
        ) from error
    if not members:
        raise ImagesError(
            f"Expected a tar of pictures. Received: no images under {spec!r}. Check --images."
        )
    members = members[: max_images or None]

    def read(index: int) -> tuple[str, bytes]:
        name, offset, size = members[index]
        with _naming(name), path.open("rb") as file:
            file.seek(offset)
            return name, file.read(size)

    digest = _digest((name, size) for name, _, size in members)
    return Source(spec, len(members), digest, _from_python(read), read)


def _other_kind(path: Path) -> str:
    """What a file is that is no tar, and what to give instead; "" where that cannot be told."""
    begin = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        begin = file.read(8)
    if path.suffix.lower() in EXTENSIONS or begin.startswith(_PICTURES):
        return "is a picture; give the folder that holds it."
    if path.suffix.lower() in _WEIGHTS or begin.startswith(b"\x89HDF"):
        return "is a file of weights; give a folder of pictures."
    return ""


def _safe_members(archive: tarfile.TarFile, spec: str) -> Iterator[tarfile.TarInfo]:
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
    # Python passes over a header that is cut or damaged as if the archive ended before it.
    file = archive.fileobj
    file.seek(archive.offset)  # type: ignore[union-attr]
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # type: ignore[union-attr]
        raise ImagesError(
            f"Expected a whole tar. Received: {spec!r}, which is cut or damaged at byte "
            f"{archive.offset}. Fetch it again."
        )


def _tfds(spec: str, max_images: int) -> Source:
    """Any TensorFlow data set with a feature "image", in stored order (shuffled by hash)."""
    name, _, split = spec.removeprefix("tfds:").rpartition("/")
    if not name or not split:
        raise ImagesError(
            f"Expected tfds:NAME/SPLIT. Received: {spec!r}. "
            "For example tfds:imagenet_v2/test needs no manual download."
        )
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder(name)
        builder.download_and_prepare()
        count = int(builder.info.splits[split].num_examples)
        features = builder.info.features
        if "image" not in features:
            raise ImagesError(
                f"Expected a data set with a feature 'image'. Received: {name} with "
                f"{', '.join(features)}. Choose another data set."
            )
        whole = builder.as_dataset(
            split=split,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(
                add_tfds_id=True, interleave_cycle_length=1, try_autocache=False
            ),
            shuffle_files=False,
        )
    except ImagesError:
        raise
    except ImportError as error:
        raise ImagesError(
            f"Expected tensorflow-datasets and what it needs. Received: {error}. Run "
            "pip install tensorflow-datasets importlib_resources, or give a folder."
        ) from error
    except (Exception, SystemExit) as error:  # TFDS raises AssertionError, ValueError, ...
        raise ImagesError(
            f"Expected a TensorFlow data set. Received: {spec!r}, which cannot be prepared: "
            f"{' '.join(str(error).split())[:400]}"
        ) from error
    count = min(max_images or count, count)
    if count == 0:
        raise ImagesError(
            f"Expected pictures. Received: no images under {spec!r}. Check the split."
        )
    whole = whole.take(count)

    def encoded(indices: np.ndarray) -> tf.data.Dataset:
        if not len(indices):
            return whole.enumerate().map(lambda index, example: (index, example["image"])).take(0)
        first, last = int(indices[0]), int(indices[-1])
        numbered = whole.enumerate().skip(first).take(last + 1 - first)
        wanted = np.zeros(last + 1, bool)
        wanted[indices] = True
        numbered = numbered.filter(lambda index, _: tf.gather(tf.constant(wanted), index))
        return numbered.map(lambda index, example: (index, example["image"]))

    def read(index: int) -> tuple[str, bytes]:
        example = next(iter(whole.skip(index).take(1)))
        return example["tfds_id"].numpy().decode(), example["image"].numpy()

    info = builder.info.splits[split]
    entries = [(f"{builder.info.full_name}/{split}[:{count}]", count)]
    for path in map(str, getattr(info, "filepaths", [])):
        size = os.path.getsize(path) if os.path.exists(path) else 0
        entries.append((os.path.basename(path), size))
    return Source(spec, count, _digest(entries), encoded, read, mixed=True)


def representative(source: Source, count: int) -> np.ndarray:
    """Indices of `count` pictures that stand for all (0: all): the first ones of a random order,
    else evenly spaced, since folders are sorted by class."""
    if count <= 0 or count >= source.total:
        return np.arange(source.total)
    return np.arange(count) if source.mixed else np.arange(count) * source.total // count


def batches(
    source: Source,
    indices: np.ndarray,
    *,
    batch_size: int,
    resize: str = "squash",
    image_size: int = 224,
    min_side: int = 1,
) -> tf.data.Dataset:
    """Decoded, resized images in order; unreadable ones are left out.

    Args:
        source: Where they come from.
        indices: Which of its pictures, in the order in which they come (see `Source.encoded`).
        batch_size: Images in a batch; 1 with resize "none", where every size differs.
        resize: "squash", "crop" or "none", see `decode.resize`.
        image_size: Side in pixels.
        min_side: Smaller images are left out (resize "none").

    Returns:
        A data set of (index int64 [B], image float32 [B, H, W, 3]); the last batch may be smaller.
    """
    if resize != "none":
        min_side = 1

    def load(index: tf.Tensor, encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        good = tf.numpy_function(lambda data: not decode.fault(data, min_side), [encoded], tf.bool)
        with tf.control_dependencies([tf.debugging.Assert(good, ["unreadable"])]):
            encoded = tf.identity(encoded)
        return index, decode.resize(decode.decode(encoded), resize, image_size)

    options = tf.data.Options()
    # The tuner gains nothing here, and ending a data set waits seconds for its thread.
    options.autotune.enabled = False
    images = source.encoded(indices)
    images = images.map(load, num_parallel_calls=_CORES, deterministic=True)
    images = images.ignore_errors()
    images = images.batch(1 if resize == "none" else batch_size)
    return images.prefetch(PREFETCH).with_options(options)


def reason(source: Source, index: int, min_side: int = 1) -> dict[str, str]:
    """Why image `index` was left out: {"path", "reason"}."""
    try:
        name, encoded = source.read(index)
    except OSError as error:
        path = _printable(str(error.filename or index))
        return {"path": path, "reason": f"cannot be read ({error.strerror or error})"}
    why = decode.fault(encoded, min_side)
    if not why:
        try:
            decode.decode(tf.constant(encoded))
            why = "could not be read the first time"
        except tf.errors.OpError as error:
            why = f"cannot be decoded ({_first_words(error.message)})"
    return {"path": _printable(name), "reason": why}


def _printable(name: str) -> str:
    """A name that is not UTF-8 on the disk cannot be written as text either."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _first_words(message: str) -> str:
    return " ".join(message.split("}}")[-1].split())[:200]
