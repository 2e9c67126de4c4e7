"""Measuring many images: the same sums whatever the batches, stops, devices and damage."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from forks import program
from helpers import ROOT, encode, identity_chain, picture, tiny_chain

from vgg_normalize import channel_sums, measurement, measurement_state
from vgg_normalize.channel_sums import Sums
from vgg_normalize.data import sources
from vgg_normalize.errors import ImagesError, NetworkError, OutputError
from vgg_normalize.runtime import checkpoint

pytestmark = pytest.mark.slow

CHANNELS = {"first": 5, "second": 7}
BAD = (2, 7)
SMALL = measurement.InputOptions(batch_size=2, image_size=16)


def folder(path, count=9, bad=BAD):
    """A folder of pictures of several sizes, some of them unreadable."""
    path.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        data = encode(picture(14 + i % 16, 30 - i % 13, i), "PNG")
        (path / f"{i}.png").write_bytes(b"" if i in bad else data)
    return sources.open_source(str(path))


def states(source, reading=SMALL, model=None, **options):
    model = tiny_chain() if model is None else model
    return list(measurement.measure(model, source, reading, max_skipped=9, **options))


def same(one, other):
    """Whether two states agree to the last bit."""
    sums = zip(one.sums, other.sums, strict=True)
    return (
        all(mine.tobytes() == its.tobytes() for mine, its in sums)
        and np.array_equal(one.positions, other.positions)
        and one.skipped == other.skipped
    )


def close(one, other, tolerance):
    for mine, its in zip(one.sums, other.sums, strict=True):
        np.testing.assert_allclose(mine, its, rtol=tolerance)
    assert one.skipped == other.skipped


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def whole(source):
    """All states of one uninterrupted run."""
    return states(source)


def test_it_begins_with_nothing_and_ends_with_everything(source, whole):
    first, last = whole[0], whole[-1]
    assert same(first, measurement_state.initial_state(CHANNELS))
    assert last.sums.images == 7 and last.skipped == BAD
    assert last.positions.tolist() == [9]
    done = [int(state.sums.images) for state in whole]
    assert done == [0, 2, 4, 6, 7, 7]


def test_the_sums_are_those_of_channel_means(source, whole):
    batches = [
        image for _, image in sources.batches(source, np.arange(9), batch_size=2, image_size=16)
    ]
    expected = channel_sums.channel_means(tiny_chain(), batches)
    found = whole[-1].sums.to_means(CHANNELS)
    assert found.positions == expected.positions
    for layer in CHANNELS:
        assert np.array_equal(found.mean[layer], expected.mean[layer])
        assert np.array_equal(found.standard_error[layer], expected.standard_error[layer])


def test_every_picture_is_done_or_skipped_or_still_to_come_at_every_state(whole):
    for state in whole:
        assert int(state.sums.images) + len(state.skipped) == state.positions[0]


@pytest.mark.parametrize("size", [1, 3, 4, 20])
def test_case_30_31_and_32_the_batch_size_does_not_matter(source, whole, size):
    other = states(source, SMALL._replace(batch_size=size))
    close(other[-1], whole[-1], 1e-5)
    exact = [states(source, SMALL._replace(batch_size=n), identity_chain()) for n in (2, size)]
    close(exact[0][-1], exact[1][-1], 1e-12)


def test_case_31_one_image_is_enough(tmp_path):
    state = states(folder(tmp_path, 1, bad=()), SMALL._replace(batch_size=8))[-1]
    assert state.sums.images == 1


def test_case_32_the_order_does_not_matter(tmp_path):
    folder(tmp_path)
    found = [
        states(sources.open_source(str(tmp_path), seed=s, shuffle=s > 0), model=identity_chain())[
            -1
        ]
        for s in (0, 1, 2)
    ]
    for other in found[1:]:
        for mine, its in zip(other.sums, found[0].sums, strict=True):
            np.testing.assert_allclose(mine, its, rtol=1e-12)


def test_case_32_parts_measured_apart_merge(source, whole):
    middle = whole[len(whole) // 2]
    late = states(source, state=middle._replace(sums=Sums.zeros(CHANNELS)))[-1]
    for mine, its in zip(middle.sums + late.sums, whole[-1].sums, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-12)


@pytest.mark.parametrize("resize", ["squash", "crop", "none"])
def test_a_run_goes_on_from_any_state_with_the_same_bits(source, resize):
    reading = SMALL._replace(resize=resize)
    run = states(source, reading)
    for i, state in enumerate(run):
        rest = states(source, reading, state=state)
        assert same(rest[0], state)
        assert same(rest[-1], run[-1]), f"from state {i}"


def test_a_run_goes_on_through_a_file_with_the_same_bits(source, whole, tmp_path):
    path = tmp_path / "checkpoint.npz"
    for state in whole:
        measurement_state.save_state(path, state, "settings")
        loaded, complaints = measurement_state.load_state(path, "settings", whole[0].sums)
        assert same(loaded, state) and not complaints
        assert same(states(source, state=loaded)[-1], whole[-1])


def test_a_finished_run_that_goes_on_reads_nothing(source, whole):
    def encoded(indices):
        assert len(indices) == 0
        return source.encoded(indices)

    again = states(source._replace(encoded=encoded), state=whole[-1])
    assert same(again[-1], whole[-1])


@pytest.mark.parametrize("bad", [(0,), (8,), (0, 1, 2), (7, 8), (0, 1, 3, 4, 5, 6, 7)])
def test_skipped_pictures_are_found_wherever_they_are(tmp_path, bad):
    run = states(folder(tmp_path, bad=bad))
    assert run[-1].skipped == bad
    assert run[-1].sums.images == 9 - len(bad)
    rest = states(sources.open_source(str(tmp_path)), state=run[len(run) // 2])
    assert same(rest[-1], run[-1])


@pytest.mark.parametrize("allowed", [0, 1])
def test_more_unreadable_pictures_than_allowed_are_an_error(source, allowed):
    said = rf"at most {allowed} unreadable.*Received: {allowed + 1}.*empty file.*`max_skipped`"
    with pytest.raises(ImagesError, match=said):
        list(measurement.measure(tiny_chain(), source, SMALL, max_skipped=allowed))
    list(measurement.measure(tiny_chain(), source, SMALL, max_skipped=2))


def test_too_many_unreadable_pictures_stop_the_run_early(tmp_path):
    source = folder(tmp_path, 40, bad=(1,))
    done = []
    with pytest.raises(ImagesError):
        for state in measurement.measure(tiny_chain(), source, SMALL):
            done.append(int(state.sums.images))
    assert done[-1] < 4


def test_case_29_nothing_readable_is_an_error(tmp_path):
    with pytest.raises(ImagesError, match="none of the 3"):
        states(folder(tmp_path, 3, bad=(0, 1, 2)))


def test_case_23_a_picture_that_vanishes_during_the_run_is_skipped(tmp_path):
    source = folder(tmp_path, 40, bad=())
    run = measurement.measure(tiny_chain(), source, SMALL, max_skipped=1)
    next(run)
    (tmp_path / "9.png").unlink()  # the last one by name
    *_, state = run
    assert state.skipped == (39,) and state.sums.images == 39


def test_case_35_an_activation_that_is_not_finite_names_its_layer_and_picture(tmp_path):
    model = identity_chain()
    layer = model.layers[-1]
    layer.set_weights([np.full((1, 1, 3, 3), 2e38, np.float32), np.zeros(3, np.float32)])
    files = [np.full((16, 16, 3), value, np.uint8) for value in (0, 0, 255)]
    for i, pixels in enumerate(files):
        (tmp_path / f"{i}.png").write_bytes(encode(pixels, "PNG"))
    with pytest.raises(NetworkError, match=r"in same at 2\.png"):
        states(sources.open_source(str(tmp_path)), SMALL._replace(batch_size=8), model)


def test_images_of_native_sizes_count_by_their_positions(tmp_path):
    source = folder(tmp_path)
    state = states(source, SMALL._replace(resize="none"), identity_chain())[-1]
    pixels = [picture(14 + i, 30 - i, i).reshape(-1, 3) for i in range(9) if i not in BAD]
    expected = np.concatenate(pixels).mean(0) / 255
    found = state.sums.to_means({"same": 3})
    assert found.positions["same"] == sum(map(len, pixels))
    np.testing.assert_allclose(found.mean["same"], expected, rtol=1e-6)


def test_too_small_pictures_are_skipped_at_native_size(tmp_path):
    state = states(folder(tmp_path, bad=()), SMALL._replace(resize="none", min_side=18))[-1]
    assert state.skipped == (0, 1, 2, 3)


def test_the_worst_error_is_that_of_95_percent_of_the_living_filters():
    random = np.random.default_rng(0)
    s = random.gamma(1, 1, (50, 40))
    s[:, 7] = 0
    channels = {"a": 30, "b": 10}
    sums = Sums.from_batch(s, np.ones(2), channels)
    living = np.delete(s, 7, axis=1)
    errors = living.std(0, ddof=1) / np.sqrt(50) / living.mean(0)
    assert measurement.worst_error(sums, channels) == pytest.approx(
        np.quantile(errors, 0.95), rel=1e-9
    )
    assert (errors <= measurement.worst_error(sums, channels)).mean() >= 0.94


def test_the_worst_error_of_less_than_two_images_is_infinite_and_of_dead_filters_none():
    channels = {"a": 2}
    assert measurement.worst_error(Sums.zeros(channels), channels) == np.inf
    one = Sums.from_batch(np.ones((1, 2)), np.ones(1), channels)
    assert measurement.worst_error(one, channels) == np.inf
    dead = Sums.from_batch(np.zeros((5, 2)), np.ones(1), channels)
    assert measurement.worst_error(dead, channels) == 0


def test_the_worst_error_falls_as_images_come(tmp_path):
    run = states(folder(tmp_path, 60, bad=()), SMALL._replace(batch_size=10))
    errors = [measurement.worst_error(state.sums, CHANNELS) for state in run[2:]]
    assert errors[-1] < errors[0] and np.isfinite(errors).all()


def saved(path, whole, count=2):
    """Checkpoints of the last states, the newest at `path`."""
    for state in whole[-count:]:
        measurement_state.save_state(path, state, "settings")
    return path


DAMAGE = {
    "empty": lambda raw: b"",
    "truncated": lambda raw: raw[: len(raw) // 2],
    "last byte": lambda raw: raw[:-1],
    "text": lambda raw: b"not a checkpoint",
    "flipped": lambda raw: raw[:900] + bytes([raw[900] ^ 1]) + raw[901:],
    "zeros": lambda raw: bytes(len(raw)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_case_50_a_damaged_checkpoint_falls_back_to_the_one_before_it(tmp_path, whole, name):
    path = saved(tmp_path / "checkpoint.npz", whole)
    path.write_bytes(DAMAGE[name](path.read_bytes()))
    state, complaints = measurement_state.load_state(path, "settings", whole[0].sums)
    assert same(state, whole[-2])
    assert len(complaints) == 1 and "damaged" in complaints[0]
    path.with_suffix(".previous").write_bytes(b"")
    assert measurement_state.load_state(path, "settings", whole[0].sums)[0] is None
    assert len(measurement_state.load_state(path, "settings", whole[0].sums)[1]) == 2


def test_case_50_no_flipped_bit_is_believed_or_crashes(tmp_path, whole):
    path = saved(tmp_path / "checkpoint.npz", whole)
    raw = path.read_bytes()
    # The directory at the end, where other errors come from, and a sample of the rest.
    directory = raw.index(b"PK\x01\x02")
    for at in [*range(0, directory, 97), *range(directory, len(raw), 3)]:
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 9]) + raw[at + 1 :])
        state, _ = measurement_state.load_state(path, "settings", whole[0].sums)
        assert same(state, whole[-1]) or same(state, whole[-2]), at


@pytest.mark.parametrize("change", ["missing", "misshaped"])
def test_a_checkpoint_with_wrong_arrays_falls_back_to_the_one_before_it(tmp_path, whole, change):
    path = saved(tmp_path / "checkpoint.npz", whole)
    arrays = dict(np.load(path))
    arrays["s"] = arrays["s"][:-1]
    if change == "missing":
        del arrays["s"]
    np.savez(path, **arrays)
    state, complaints = measurement_state.load_state(path, "settings", whole[0].sums)
    assert same(state, whole[-2])
    assert len(complaints) == 1 and " s" in complaints[0]


def test_no_checkpoint_is_no_state(tmp_path, whole):
    assert measurement_state.load_state(tmp_path / "checkpoint.npz", "settings", whole[0].sums) == (
        None,
        [],
    )


def test_case_49_a_checkpoint_of_other_settings_is_refused(tmp_path, whole):
    path = saved(tmp_path / "checkpoint.npz", whole)
    with pytest.raises(OutputError, match="other settings"):
        measurement_state.load_state(path, "others", whole[0].sums)


def test_a_fingerprint_depends_on_every_setting_and_not_on_their_order():
    one = checkpoint.fingerprint({"seed": 1, "images": "a"})
    assert one == checkpoint.fingerprint({"images": "a", "seed": 1})
    assert (
        len({one, checkpoint.fingerprint({"seed": 2, "images": "a"}), checkpoint.fingerprint({})})
        == 3
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_case_45_a_full_disk_is_an_error_and_the_checkpoint_before_stays(tmp_path, whole):
    path = saved(tmp_path / "checkpoint.npz", whole, 1)
    before = path.read_bytes()
    path.with_suffix(".writing").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left on device.*Make room"):
        measurement_state.save_state(path, whole[0], "settings")
    assert path.read_bytes() == before
    assert same(measurement_state.load_state(path, "settings", whole[0].sums)[0], whole[-1])


@pytest.mark.parametrize("step", [1, 2])
def test_case_46_dying_between_two_renames_leaves_a_checkpoint(tmp_path, whole, monkeypatch, step):
    path = saved(tmp_path / "checkpoint.npz", whole)
    replace, calls = os.replace, []

    def dying(*arguments):
        calls.append(arguments)
        if len(calls) == step:
            raise OSError(errno.EIO, "Input/output error")
        replace(*arguments)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(OutputError):
        measurement_state.save_state(path, whole[0], "settings")
    state, _ = measurement_state.load_state(path, "settings", whole[0].sums)
    assert same(state, whole[-1])


def mirrored(path):
    """Run in a process of its own: measures on two devices and compares with one."""
    import tensorflow as tf

    from vgg_normalize.runtime import devices

    devices.split_cpu(2)
    strategy = devices.strategy("mirrored")
    assert strategy.num_replicas_in_sync == 2
    exact, native = identity_chain(), SMALL._replace(resize="none")
    # Seven images: the second device gets a smaller last batch; one by one, it gets none.
    seven, five = folder(Path(path) / "7"), folder(Path(path) / "5", 5, ())
    for source, reading, model, tolerance in (
        (seven, SMALL, exact, 1e-12),
        (seven, native, exact, 1e-12),
        (seven, SMALL, tiny_chain(), 1e-6),
        (five, SMALL, tiny_chain(), 1e-6),
    ):
        one = states(source, reading, model)[-1]
        two = states(source, reading, model, strategy=strategy)
        close(two[-1], one, tolerance)
        rest = states(source, reading, model, state=two[1], strategy=strategy)
        assert same(rest[-1], two[-1])
    assert len(tf.config.list_logical_devices("CPU")) == 2
    print("agreed")


def test_case_32_two_devices_give_the_sums_of_one_and_go_on_with_the_same_bits(tmp_path):
    code = "import sys; sys.path[:0] = sys.argv[1:3]; import test_measurement as t; t.mirrored(sys.argv[3])"
    assert program(code, Path(__file__).parent, ROOT / "tests", tmp_path) == "agreed"
