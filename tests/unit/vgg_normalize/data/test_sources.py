"""Where images come from: folders, tars, TensorFlow data sets; and every way they can be bad."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from helpers import TINY, command, encode, identity_chain, picture, pictures, refused
from PIL import Image

from vgg_normalize import measurement
from vgg_normalize.data import decode, sources
from vgg_normalize.errors import ImagesError

pytestmark = pytest.mark.slow

JPEG = encode(picture(40, 40), quality=90)
BAD = {
    "1 zero bytes": (b"", "empty file"),
    "2 half": (JPEG[: len(JPEG) // 2], "damaged JPEG"),
    "3 no end": (JPEG[:-2], "damaged JPEG"),
    "4 header": (JPEG[:100], "damaged header"),
    "5 hole": (JPEG[: len(JPEG) // 2] + JPEG[-300:], "damaged JPEG"),
    "7 html": (b"<html>not found</html>", "not an image"),
    "15 TIFF": (encode(picture(40, 40), "TIFF"), "unsupported format TIFF"),
    "cut PNG": (encode(picture(40, 40), "PNG")[:-900], "cannot be decoded"),
}


def write(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def numbered(count, start=0):
    return {f"{i:04}.png": encode(picture(20, 24, i), "PNG") for i in range(start, count)}


def names(source):
    return [source.read(i)[0] for i in range(source.total)]


def found(source, indices=None, **options):
    """index -> image of those that can be read."""
    options = {"batch_size": 3, "image_size": 16, **options}
    indices = np.arange(source.total) if indices is None else indices
    pairs = sources.batches(source, indices, **options).as_numpy_iterator()
    return {int(i): one for index, image in pairs for i, one in zip(index, image, strict=True)}


def as_tar(path, members, **options):
    """A tar of names and bytes, or of whole TarInfos."""
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            info.size = 0 if data is info else len(data)
            archive.addfile(info, None if data is info else io.BytesIO(data))
    return path


def arguments(source, output, *more):
    return (*TINY, f"--images={source}", f"--output={output}", "--formats=npz", *more)


def test_a_folder_is_read_in_sorted_order_with_its_subfolders(tmp_path):
    files = numbered(6)
    where = ["b/2.png", "a.png", "b/10.png", "Z.png", "b/c/d.png", "z.png"]
    placed = dict(zip(where, files, strict=True))
    write(tmp_path, {name: files[key] for name, key in placed.items()})
    source = sources.open_source(str(tmp_path))
    assert names(source) == sorted(placed)
    for index, image in found(source, resize="none").items():
        name, encoded = source.read(index)
        assert encoded == files[placed[name]]
        expected = np.asarray(Image.open(io.BytesIO(encoded)), np.float32) / np.float32(255)
        assert np.array_equal(image, expected)


def test_batches_are_in_order_and_the_last_one_is_smaller(tmp_path):
    source = sources.open_source(str(write(tmp_path, numbered(8))))
    for size in (1, 3, 8, 100):
        batches = list(sources.batches(source, np.arange(8), batch_size=size, image_size=16))
        assert np.concatenate([index for index, _ in batches]).tolist() == list(range(8))
        assert [len(image) for _, image in batches[:-1]] == [size] * (len(batches) - 1)
        assert len(batches[-1][1]) == (8 % size or size)


def test_any_part_of_a_source_can_be_read(tmp_path):
    source = sources.open_source(str(write(tmp_path, numbered(9))))
    whole = found(source)
    for part in (np.arange(4, 9), np.arange(1, 9, 3), np.array([7]), np.arange(0)):
        some = found(source, part)
        assert list(some) == part.tolist()
        assert all(np.array_equal(some[i], whole[i]) for i in some)


def test_what_is_not_a_picture_by_name_is_ignored_and_case_does_not_matter(tmp_path):
    data = next(iter(numbered(1).values()))
    kept = ["a.JPG", "b.JPEG", "c.Png", "d.webp", "e.bmp", "f.gif"]
    left = ["notes.txt", "jpg", "png", "x.jpg.part", "Thumbs.db", "y.mat", ".DS_Store"]
    write(tmp_path, dict.fromkeys(kept + left, data))
    assert names(sources.open_source(str(tmp_path))) == kept


def test_case_24_a_directory_named_like_a_picture_is_a_directory(tmp_path):
    data = next(iter(numbered(1).values()))
    write(tmp_path, {"x.jpg/inside.png": data, "y.png": data})
    (tmp_path / "empty.jpg").mkdir()
    assert names(sources.open_source(str(tmp_path))) == ["x.jpg/inside.png", "y.png"]


def test_case_28_links_to_folders_are_followed_once(tmp_path):
    write(tmp_path / "set", {"a/1.png": JPEG, "b/2.png": JPEG})
    write(tmp_path / "elsewhere", {"3.png": JPEG})
    (tmp_path / "set/b/loop").symlink_to(tmp_path / "set")
    (tmp_path / "set/b/self").symlink_to(".")
    (tmp_path / "set/z").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/zz").symlink_to(tmp_path / "elsewhere")
    source = sources.open_source(str(tmp_path / "set"))
    assert names(source) == ["a/1.png", "b/2.png", "z/3.png"]


ODD = ["größe ü.png", "a b.png", "new\nline.png", "100%d.png", "*?[x].png", "'\".png", "-x.png"]


def test_case_27_odd_names_work(tmp_path):
    files = {name: encode(picture(20, 20, i), "PNG") for i, name in enumerate(ODD)}
    source = sources.open_source(str(write(tmp_path / "100% *", files)))
    assert names(source) == sorted(ODD)
    seen = found(source, resize="none")
    for index, name in enumerate(sorted(ODD)):
        expected = np.asarray(Image.open(io.BytesIO(files[name])), np.float32) / np.float32(255)
        assert np.array_equal(seen[index], expected)


def test_case_27_a_name_that_is_not_utf8_works_and_can_be_reported(tmp_path, capsys):
    folder = write(tmp_path / "in", numbered(3))
    for name, data in ((b"good\xff.png", JPEG), (b"bad\xfe.png", b"")):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(data)
    given = arguments(folder, tmp_path / "out", "--max_skipped=1", "--task=measure")
    assert command(*given) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["images"]["used"] == 4
    assert [one["path"] for one in report["images"]["skipped"]] == [r"bad\xfe.png"]


def test_max_images_is_a_random_choice_fixed_by_the_seed(tmp_path):
    folder = str(write(tmp_path, numbered(30)))
    chosen = names(sources.open_source(folder, max_images=10, seed=1))
    assert chosen == sorted(chosen) and len(set(chosen)) == 10
    assert chosen == names(sources.open_source(folder, max_images=10, seed=1))
    assert chosen != names(sources.open_source(folder, max_images=10, seed=2))
    assert chosen != sorted(numbered(30))[:10]
    assert len(names(sources.open_source(folder, max_images=99))) == 30


def test_a_shuffled_folder_holds_the_same_pictures_in_an_order_fixed_by_the_seed(tmp_path):
    folder = str(write(tmp_path, numbered(30)))
    source = sources.open_source(folder, seed=1, shuffle=True)
    assert source.mixed and not sources.open_source(folder).mixed
    shuffled = names(source)
    assert shuffled != sorted(shuffled) == sorted(numbered(30))
    assert shuffled == names(sources.open_source(folder, seed=1, shuffle=True))
    assert shuffled != names(sources.open_source(folder, seed=2, shuffle=True))
    assert shuffled[:7] == names(sources.open_source(folder, max_images=7, seed=1, shuffle=True))


def test_the_choice_favours_no_picture(tmp_path):
    folder = str(write(tmp_path, dict.fromkeys(numbered(8), b"")))
    counts = dict.fromkeys(numbered(8), 0)
    for seed in range(200):
        for name in names(sources.open_source(folder, max_images=2, seed=seed)):
            counts[name] += 1
    # 50 each with a deviation of 6.
    assert all(25 < count < 75 for count in counts.values()), counts


def test_the_sum_changes_with_names_sizes_and_order_only(tmp_path):
    files = numbered(5)
    first = sources.open_source(str(write(tmp_path / "a", files))).sha256
    assert sources.open_source(str(write(tmp_path / "b", files))).sha256 == first
    renamed = {f"x{name}": data for name, data in files.items()}
    longer = {**files, "0000.png": files["0000.png"] + b" "}
    sums = {first, sources.open_source(str(tmp_path / "a"), shuffle=True).sha256}
    for i, other in enumerate([renamed, longer, numbered(4)]):
        sums.add(sources.open_source(str(write(tmp_path / str(i), other))).sha256)
    assert len(sums) == 5


@pytest.mark.parametrize("name", BAD)
def test_an_unreadable_file_is_left_out_and_named_with_its_reason(tmp_path, name):
    data, reason = BAD[name]
    folder = write(tmp_path, {**numbered(5), "0002.png": data})
    source = sources.open_source(str(folder))
    assert sorted(found(source)) == [0, 1, 3, 4]
    said = sources.skip_reason(source, 2)
    assert said["path"] == "0002.png" and said["reason"].startswith(reason)


def test_case_22_a_dangling_link_is_left_out_and_named(tmp_path):
    folder = write(tmp_path, numbered(3))
    (folder / "sub").mkdir()
    (folder / "sub/0001.png").symlink_to("nowhere.png")
    source = sources.open_source(str(folder))
    assert sorted(found(source)) == [0, 1, 2]
    expected = {"path": "sub/0001.png", "reason": "cannot be read (No such file or directory)"}
    assert sources.skip_reason(source, 3) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_case_22_a_file_that_may_not_be_read_is_left_out_and_named(tmp_path):
    folder = write(tmp_path, numbered(3))
    (folder / "0001.png").chmod(0)
    source = sources.open_source(str(folder))
    assert sorted(found(source)) == [0, 2]
    assert "Permission denied" in sources.skip_reason(source, 1)["reason"]


def test_case_23_a_file_that_vanishes_is_left_out_and_named(tmp_path):
    folder = write(tmp_path, numbered(5))
    source = sources.open_source(str(folder))
    (folder / "0003.png").unlink()
    assert sorted(found(source)) == [0, 1, 2, 4]
    assert sources.skip_reason(source, 3)["path"] == "0003.png"


def test_case_23_a_tar_that_vanishes_ends_in_a_list_not_in_a_crash(tmp_path):
    path = as_tar(tmp_path / "x.tar", numbered(4))
    source = sources.open_source(str(path))
    path.unlink()
    assert found(source) == {}
    assert sources.skip_reason(source, 2)["path"] == "0002.png"


def test_a_file_that_can_be_read_the_second_time_says_so(tmp_path):
    source = sources.open_source(str(write(tmp_path, numbered(1))))
    assert sources.skip_reason(source, 0)["reason"] == "could not be read the first time"


def test_too_little_memory_to_resize_is_not_blamed_on_the_image(tmp_path, monkeypatch):
    def resize(pixels, mode, size):
        def fail(_):
            raise MemoryError("out of memory")

        return tf.ensure_shape(tf.numpy_function(fail, [pixels], tf.float32), [size, size, 3])

    source = sources.open_source(str(write(tmp_path, numbered(2))))
    monkeypatch.setattr(decode, "resize", resize)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        found(source)


def test_images_of_a_size_that_no_memory_holds_are_refused_before_they_are_read(tmp_path, capsys):
    folder = write(tmp_path / "in", numbered(2))
    line = refused(capsys, 5, *arguments(folder, tmp_path / "out", "--image_size=100000"))
    assert "100000 x 100000 pixels. Lower --image_size." in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("resize", ["squash", "crop", "none"])
@pytest.mark.parametrize("size", [(1, 1), (1, 400), (31, 20)], ids=["18", "19", "18b"])
def test_case_18_and_19_tiny_pictures_are_upscaled_or_refused_at_native_size(
    tmp_path, resize, size
):
    source = sources.open_source(str(write(tmp_path, {"a.png": encode(picture(*size), "PNG")})))
    seen = found(source, resize=resize, image_size=64, min_side=32)
    if resize == "none":
        assert not seen and "needs 32 x 32" in sources.skip_reason(source, 0, 32)["reason"]
    else:
        assert seen[0].shape == (64, 64, 3)


def test_case_20_and_21_bombs_are_left_out(tmp_path):
    small = bytearray(encode(picture(8, 8)))
    at = small.index(b"\xff\xc0") + 5
    small[at : at + 4] = b"\x32\xc8\x32\xc8"
    source = sources.open_source(str(write(tmp_path, {"bomb.jpg": bytes(small)})))
    assert found(source) == {}
    assert sources.skip_reason(source, 0)["reason"].startswith("13000 x 13000 pixels; at most")


def test_native_sizes_come_one_by_one(tmp_path):
    sizes = [(16, 20), (33, 16), (16, 16)]
    files = {f"{i}.png": encode(picture(*size), "PNG") for i, size in enumerate(sizes)}
    seen = found(sources.open_source(str(write(tmp_path, files))), resize="none", batch_size=8)
    assert [image.shape[:2] for image in seen.values()] == sizes


def test_representatives_are_the_first_of_a_mixed_order_else_evenly_spaced(tmp_path):
    folder = str(write(tmp_path, numbered(10)))
    mixed, ordered = sources.open_source(folder, shuffle=True), sources.open_source(folder)
    assert sources.representative(mixed, 4).tolist() == [0, 1, 2, 3]
    assert sources.representative(ordered, 4).tolist() == [0, 2, 5, 7]
    for count in (0, 10, 11):
        assert sources.representative(ordered, count).tolist() == list(range(10))


def test_a_tar_gives_the_images_of_the_folder(tmp_path):
    files = {**numbered(5), "class a/5.jpg": JPEG, "bad.jpg": JPEG[:-2]}
    folder = write(tmp_path / "set", files)
    subprocess.run(["tar", "--sort=name", "-cf", tmp_path / "x.tar", "-C", folder, "."], check=True)
    packed, loose = sources.open_source(str(tmp_path / "x.tar")), sources.open_source(str(folder))
    mine, its = (
        {os.path.normpath(name): i for i, name in enumerate(names(s))} for s in (packed, loose)
    )
    assert set(mine) == set(its) == set(files)
    one, other = found(packed), found(loose)
    assert len(one) == len(other) == 6
    assert all(np.array_equal(one[mine[n]], other[its[n]]) for n in files if n != "bad.jpg")
    assert sources.skip_reason(packed, mine["bad.jpg"])["reason"].startswith("damaged JPEG")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_a_tar_keeps_its_stored_order_and_max_images_takes_the_first(tmp_path, form):
    files = dict(reversed(numbered(5).items()))
    files["ü" * 40 + ".png"] = JPEG
    path = str(as_tar(tmp_path / "x.tar", {**files, "list.txt": b"text"}, format=form))
    assert names(sources.open_source(path)) == list(files)
    assert names(sources.open_source(path, max_images=2)) == list(files)[:2]
    assert sources.open_source(path).read(5)[1] == JPEG
    assert len(found(sources.open_source(path), np.array([1, 3]))) == 2


def device(kind):
    info = tarfile.TarInfo()
    info.type = kind
    return info


HOSTILE = {
    "parent": {"../../evil.png": JPEG},
    "hidden parent": {"a/../../evil.png": JPEG},
    "absolute": {"/tmp/evil.png": JPEG},
    "character device": {"evil.png": device(tarfile.CHRTYPE)},
    "block device": {"evil": device(tarfile.BLKTYPE)},
    "fifo": {"evil.png": device(tarfile.FIFOTYPE)},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_case_33_a_hostile_tar_is_refused_and_nothing_is_written(tmp_path, name):
    path = as_tar(tmp_path / "x.tar", {**numbered(2), **HOSTILE[name]})
    with pytest.raises(ImagesError, match="evil.*hostile"):
        sources.open_source(str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.tar"]


def test_case_33_links_in_a_tar_are_not_followed(tmp_path):
    link = device(tarfile.SYMTYPE)
    link.linkname = "/etc/passwd"
    path = as_tar(tmp_path / "x.tar", {"a.png": JPEG, "evil.png": link})
    assert names(sources.open_source(str(path))) == ["a.png"]


def test_case_33_a_tar_cut_anywhere_is_refused(tmp_path):
    whole = as_tar(tmp_path / "whole.tar", numbered(4)).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as archive:
        end = archive.getmembers()[-1]
        boundary, header, last = end.offset, end.offset + 100, end.offset_data + end.size
    cut = tmp_path / "cut.tar"
    # At a boundary and inside a header Python's tarfile ends without a word.
    for length in (0, 100, 512, 700, boundary, header, boundary + 600, last - 1, last):
        cut.write_bytes(whole[:length])
        with pytest.raises(ImagesError, match=r"cut\.tar"):
            sources.open_source(str(cut))
    cut.write_bytes(whole[:header] + b"\xff" * 40 + whole[header + 40 :])
    with pytest.raises(ImagesError, match="damaged"):
        sources.open_source(str(cut))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: as_tar(path, {"notes.txt": b"text"}),
        lambda path: path.write_bytes(JPEG),
        lambda path: path.write_bytes(b""),
        lambda path: tarfile.open(path, "w:gz").close(),
    ],
    ids=["no images", "a picture", "empty", "compressed"],
)
def test_a_file_that_is_no_tar_of_pictures_is_refused(tmp_path, make):
    path = tmp_path / "x.tar"
    make(path)
    with pytest.raises(ImagesError, match=r"tar.*Received: .*x\.tar"):
        sources.open_source(str(path))


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory):
    """A folder for TensorFlow data sets in which ILSVRC2012 has five pictures."""
    tfds = pytest.importorskip("tensorflow_datasets")
    constants = tfds.core.constants
    root = tmp_path_factory.mktemp("data_sets")
    manual = root / "downloads" / "manual"
    manual.mkdir(parents=True)
    files = {f"ILSVRC2012_val_{i + 1:08}.JPEG": encode(picture(30, 40, i)) for i in range(5)}
    as_tar(manual / "ILSVRC2012_img_val.tar", files)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "DATA_DIR", str(root))
        patch.setenv("TFDS_DATA_DIR", str(root))
        yield root


def test_a_tensorflow_data_set_gives_its_pictures(data_sets):
    source = sources.open_source("tfds:imagenet2012/validation")
    assert source.total == 5 and source.mixed
    expected = {encode(picture(30, 40, i)) for i in range(5)}
    assert {source.read(i)[1] for i in range(5)} == expected
    assert len(set(names(source))) == 5
    whole = found(source, resize="none")
    for index, image in whole.items():
        pixels = np.asarray(Image.open(io.BytesIO(source.read(index)[1])), np.float32)
        assert np.array_equal(image, pixels / np.float32(255))
    for part in ([1, 3], [4], [], [0, 1, 2]):
        some = found(source, np.array(part, int), resize="none")
        assert list(some) == part and all(np.array_equal(some[i], whole[i]) for i in part)


def test_slices_and_max_images_take_the_first_of_a_data_set(data_sets):
    whole = names(sources.open_source("tfds:imagenet2012/validation"))
    sliced = sources.open_source("tfds:imagenet2012/validation[:3]")
    assert names(sliced) == whole[:3] and sorted(found(sliced)) == [0, 1, 2]
    few = sources.open_source("tfds:imagenet2012/validation", max_images=2)
    assert names(few) == whole[:2] and sorted(found(few)) == [0, 1]
    assert len({source.sha256 for source in (sliced, few)}) == 2


@pytest.mark.parametrize(
    "spec, said",
    [
        ("tfds:imagenet2012/validation[:99999]", "99999"),
        ("tfds:imagenet2012/test", "test"),
        ("tfds:no_such_set/train", "no_such_set"),
        ("tfds:imagenet2012", "tfds:NAME/SPLIT"),
        ("tfds:/", "tfds:NAME/SPLIT"),
    ],
)
def test_case_34_what_a_data_set_has_not_is_said_in_one_line(data_sets, spec, said):
    with pytest.raises(ImagesError) as error:
        sources.open_source(spec)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_case_34_a_missing_manual_download_says_where_to_put_it(tmp_path, monkeypatch, capsys):
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "none"))
    line = refused(capsys, 2, *arguments("tfds:imagenet2012/validation", tmp_path / "out"))
    assert "manual" in line and str(tmp_path / "none") in line
    assert not (tmp_path / "out").exists()


def test_case_34_without_tensorflow_datasets_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImagesError, match=r"tensorflow_datasets.*pip install"):
        sources.open_source("tfds:imagenet2012/validation")


def test_case_34_a_module_that_it_misses_itself_is_named(data_sets, monkeypatch):
    def download_and_prepare(_):
        raise ModuleNotFoundError("No module named 'importlib_resources'")

    builder = pytest.importorskip("tensorflow_datasets").core.DatasetBuilder
    monkeypatch.setattr(builder, "download_and_prepare", download_and_prepare)
    with pytest.raises(ImagesError, match=r"importlib_resources.*pip install"):
        sources.open_source("tfds:imagenet2012/validation")


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda folder: folder.mkdir(), "no images under"),
        (lambda folder: write(folder, {"a.txt": b"text"}), "no images under"),
        (lambda folder: None, "does not exist"),
    ],
    ids=["25 empty", "25 no picture", "26 missing"],
)
def test_case_25_and_26_no_images_exits_2_before_a_network_is_built(
    tmp_path, monkeypatch, capsys, make, said
):
    from vgg_normalize import vgg

    monkeypatch.setattr(vgg, "build", lambda *a, **k: pytest.fail("built a network"))
    make(tmp_path / "in")
    line = refused(capsys, 2, *arguments(tmp_path / "in", tmp_path / "out"))
    assert said in line and str(tmp_path / "in") in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("max_images", [-1])
def test_a_negative_number_of_images_is_an_error(max_images):
    with pytest.raises(ImagesError, match="Received: -1"):
        sources.open_source("sample", max_images=max_images)


@pytest.mark.parametrize("name", BAD)
def test_one_unreadable_file_exits_2_and_names_it(tmp_path, capsys, name):
    data, reason = BAD[name]
    folder = write(tmp_path / "in", {**numbered(3), "bad.jpg": data})
    line = refused(capsys, 2, *arguments(folder, tmp_path / "out"))
    assert "bad.jpg" in line and reason in line and "--max_skipped" in line
    assert not (tmp_path / "out").exists()


def test_unreadable_files_within_max_skipped_are_in_the_report(tmp_path, capsys):
    bad = {f"bad {name}.jpg": data for name, (data, _) in BAD.items()}
    folder = write(tmp_path / "in", {**numbered(3), **bad})
    (folder / "gone.jpg").symlink_to("nowhere")
    count = len(bad) + 1
    given = arguments(folder, tmp_path / "out", "--task=measure")
    assert command(*given, f"--max_skipped={count - 1}") == 2
    assert not (tmp_path / "out").exists()
    assert command(*given, f"--max_skipped={count}") == 0
    found = json.loads((tmp_path / "out/report.json").read_text())["images"]
    assert found["used"] == 3 and len(found["skipped"]) == count
    reasons = {one["path"]: one["reason"] for one in found["skipped"]}
    assert reasons.pop("gone.jpg") == "cannot be read (No such file or directory)"
    for name, (_, reason) in BAD.items():
        assert reasons[f"bad {name}.jpg"].startswith(reason)
    clean = pictures_alone(folder, tmp_path)
    assert command(*arguments(clean, tmp_path / "clean", "--task=measure")) == 0
    with np.load(tmp_path / "out/means.npz") as one, np.load(tmp_path / "clean/means.npz") as other:
        for key in set(one.files) - {"settings"}:
            np.testing.assert_allclose(one[key], other[key], rtol=1e-6)


def pictures_alone(folder, tmp_path):
    files = {path.name: path.read_bytes() for path in folder.glob("0*.png")}
    return write(tmp_path / "alone", files)


def test_case_29_nothing_readable_exits_2_and_writes_nothing(tmp_path, capsys):
    folder = write(tmp_path / "in", {f"{i}.jpg": data for i, (data, _) in enumerate(BAD.values())})
    line = refused(capsys, 2, *arguments(folder, tmp_path / "out", "--max_skipped=99"))
    assert "none of the 8" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("hostile", [True, False])
def test_case_33_a_bad_tar_exits_2(tmp_path, capsys, hostile):
    path = as_tar(tmp_path / "x.tar", HOSTILE["parent"] if hostile else numbered(3))
    if not hostile:
        path.write_bytes(path.read_bytes()[:2000])
    assert "x.tar" in refused(capsys, 2, *arguments(path, tmp_path / "out"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.tar"]


@pytest.mark.parametrize(
    "error",
    [tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\n a tensor"), MemoryError()],
)
def test_case_56_too_little_memory_says_to_lower_the_batch_size(
    tmp_path, monkeypatch, capsys, error
):
    from vgg_normalize.cli import pipeline

    def run(*_):
        raise error

    monkeypatch.setattr(pipeline, "run", run)
    line = refused(capsys, 5, *arguments(pictures(tmp_path / "in", 1), tmp_path / "out"))
    assert "--batch_size" in line


def test_the_statistics_of_every_source_are_those_of_its_pixels(tmp_path):
    files = {f"{i}.png": encode(picture(16 + i, 30 - i, i), "PNG") for i in range(5)}
    folder, packed = write(tmp_path / "set", files), as_tar(tmp_path / "x.tar", files)
    pixels = np.concatenate([picture(16 + i, 30 - i, i).reshape(-1, 3) for i in range(5)])
    for spec in (folder, packed):
        source = sources.open_source(str(spec))
        *_, state = measurement.measure(
            identity_chain(), source, measurement.InputOptions(resize="none")
        )
        np.testing.assert_allclose(state.sums.s, pixels.sum(0) / 255, rtol=1e-6)
        assert state.sums.n.tolist() == [len(pixels)]


def test_decoding_is_the_same_inside_and_outside_the_pipeline(tmp_path):
    source = sources.open_source(str(write(tmp_path, {"a.jpg": JPEG})))
    for resize in ("squash", "crop", "none"):
        expected = decode.resize(decode.decode(tf.constant(JPEG)), resize, 16)
        assert np.array_equal(found(source, resize=resize)[0], expected)


@pytest.fixture
def with_pipe(tmp_path):
    """A folder with three pictures and a pipe named like one, which nobody writes to."""
    folder = write(tmp_path / "in", numbered(3))
    os.mkfifo(folder / "pipe.jpg")
    return folder


@pytest.mark.timeout(60)
def test_a_pipe_named_like_a_picture_is_never_opened(with_pipe, tmp_path):
    (with_pipe / "zero.png").symlink_to("/dev/zero")
    source = sources.open_source(str(with_pipe))
    assert names_of(source) == ["0000.png", "0001.png", "0002.png", "pipe.jpg", "zero.png"]
    assert list(found(source)) == [0, 1, 2]
    assert sources.skip_reason(source, 3) == {
        **{"path": "pipe.jpg", "reason": "cannot be read (not a regular file)"}
    }
    assert "not a regular file" in sources.skip_reason(source, 4)["reason"]


def names_of(source):
    return [os.fsdecode(sources.skip_reason(source, i)["path"]) for i in range(source.total)]


@pytest.mark.timeout(120)
def test_a_pipe_counts_as_an_unreadable_picture(with_pipe, tmp_path, capsys):
    given = arguments(with_pipe, tmp_path / "out", "--task=measure")
    assert command(*given) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "pipe.jpg" in line and "not a regular file" in line
    assert command(*given, "--max_skipped=1") == 0
    report = json.loads((tmp_path / "out/report.json").read_text())["images"]
    assert report["used"] == 3 and [one["path"] for one in report["skipped"]] == ["pipe.jpg"]


def test_the_sum_of_a_folder_is_over_its_names_and_sizes(tmp_path):
    """As reports and checkpoints of earlier versions have it."""
    source = sources.open_source(str(write(tmp_path, {"b.png": b"12", "a.jpg": b"123"})))
    expected = hashlib.sha256(b"a.jpg\x003\nb.png\x002\n").hexdigest()
    assert source.sha256 == expected


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("photo.jpg", JPEG, "is a picture; give the folder that holds it"),
        ("photo.tar", encode(picture(9, 9), "PNG"), "is a picture; give the folder"),
        ("photo.webp", b"damaged", "is a picture; give the folder"),
        ("vgg19.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "is a file of weights; give a folder"),
        ("vgg19.pth", b"PK\3\4", "is a file of weights; give a folder"),
        ("notes.txt", b"text", "cannot be read"),
    ],
)
def test_a_file_in_place_of_a_folder_is_called_what_it_is(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImagesError) as error:
        sources.open_source(str(path))
    assert f"{str(path)!r}, which {said}" in str(error.value)


@pytest.mark.timeout(60)
def test_a_pipe_in_place_of_a_folder_is_called_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(ImagesError, match="which is not a regular file"):
        sources.open_source(str(tmp_path / "pipe.tar"))


def test_batches_come_in_the_order_of_the_indices(tmp_path):
    source = sources.open_source(str(write(tmp_path, numbered(5))))
    order = np.array([3, 0, 4, 1])
    assert list(found(source, order)) == order.tolist()
