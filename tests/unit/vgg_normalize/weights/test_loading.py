from __future__ import annotations

import shutil

import h5py
import keras
import numpy as np
import pytest
from helpers import draw_weights, images, small_vgg, trap

import vgg_normalize as vn
from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import chain, vgg_layers
from vgg_normalize.weights import loading

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_vgg(monkeypatch)


def keras_applications_like(architecture, **options):
    """As keras.applications has it: without the conversion of pixel values."""
    model = vgg_layers.build_architecture(vgg_layers.VggOptions(architecture, **options))
    return draw_weights(chain.copy(model, without=[model.layers[1]]), seed=len(architecture))


def arrays_of(model):
    return {x.name: x.get_weights() for x in chain.layers(model) if x.weights}


def write_npz(model, path):
    np.savez(
        path,
        **{
            f"{name}/{kind}": array
            for name, pair in arrays_of(model).items()
            for kind, array in zip(("kernel", "bias"), pair, strict=True)
        },
    )


def write_legacy(model, path, kernel="{0}_W_1:0", bias="{0}_b_1:0", bias_first=False):
    """The layout of the files that keras.applications downloads, written byte by byte."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [x.name.encode() for x in model.layers]
        file.attrs["backend"] = b"tensorflow"
        for layer in model.layers:
            group = file.create_group(layer.name)
            named = dict(zip((kernel, bias), layer.get_weights(), strict=False))
            named = {key.format(layer.name): array for key, array in named.items()}
            order = list(reversed(named)) if bias_first else list(named)
            group.attrs["weight_names"] = [name.encode() for name in order]
            for name in order:
                group.create_dataset(name, data=named[name])


def write_keras2(model, path):
    write_legacy(model, path, "{0}/kernel:0", "{0}/bias:0")


def write_bias_first(model, path):
    write_legacy(model, path, "{0}/kernel:0", "{0}/bias:0", bias_first=True)


WRITERS = {
    "npz": (".npz", write_npz),
    "keras 3 weights": (".weights.h5", lambda model, path: model.save_weights(path)),
    "keras 1 weights": (".h5", write_legacy),
    "keras 2 weights": (".h5", write_keras2),
    "bias before kernel": (".h5", write_bias_first),
    "whole .h5": (".h5", lambda model, path: model.save(path)),
    ".keras": (".keras", lambda model, path: model.save(path)),
}


def write(kind, model, folder):
    suffix, writer = WRITERS[kind]
    path = folder / f"weights{suffix}"
    writer(model, path)
    return path


def assert_same(model, expected):
    for name, pair in arrays_of(model).items():
        for found, array in zip(pair, expected[name], strict=True):
            assert (found == array).all(), name


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("architecture", ["vgg16", "vgg19"])
def test_every_format_is_read(tmp_path, kind, architecture):
    original = keras_applications_like(architecture)
    path = write(kind, original, tmp_path)
    assert_same(vn.build(architecture, weights=path), arrays_of(original))


@pytest.mark.parametrize("kind", ["npz", "keras 3 weights", "keras 1 weights", ".keras"])
def test_the_classifier_is_read(tmp_path, kind):
    original = keras_applications_like("vgg16", include_top=True)
    path = write(kind, original, tmp_path)
    assert_same(vn.build("vgg16", weights=path, include_top=True), arrays_of(original))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("stored", ["block3_conv1", "block3_conv3", None])
def test_a_cut_network_needs_no_later_layers(tmp_path, kind, stored):
    original = keras_applications_like("vgg19", last_layer=stored)
    path = write(kind, original, tmp_path)
    cut = vn.build("vgg19", weights=path, last_layer="block3_conv1")
    assert_same(cut, arrays_of(original))
    assert chain.layers(cut)[-1].name == "block3_conv1"


@pytest.mark.parametrize("kind", WRITERS)
def test_what_our_own_models_save_is_read(tmp_path, kind):
    original = draw_weights(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg16")))
    path = write(kind, original, tmp_path)
    again = vn.build("vgg16", weights=path)
    assert (again(images()).numpy() == original(images()).numpy()).all()


def test_layers_with_other_names_are_read_by_order(tmp_path):
    original = keras_applications_like("vgg16")
    path = tmp_path / "torch_like.npz"
    np.savez(
        path,
        **{
            f"features.{i}/{kind}": array
            for i, pair in enumerate(arrays_of(original).values())
            for kind, array in zip(("kernel", "bias"), pair, strict=True)
        },
    )
    assert_same(vn.build("vgg16", weights=path), arrays_of(original))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("stored", "wanted"), [("vgg16", "vgg19"), ("vgg19", "vgg16")])
def test_the_other_architecture_is_refused(tmp_path, kind, stored, wanted):
    path = write(kind, keras_applications_like(stored), tmp_path)
    layers = {"vgg16": 13, "vgg19": 16}
    message = f"Expected {layers[wanted]} layers.*Received:.*{layers[stored]}"
    with pytest.raises(NetworkError, match=message):
        vn.build(wanted, weights=path)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_of_two_layers_is_refused(tmp_path, kind):
    path = write(kind, keras_applications_like("vgg19", last_layer="block1_conv2"), tmp_path)
    with pytest.raises(NetworkError, match=r"Expected 16 layers\. Received: .* with 2"):
        vn.build("vgg19", weights=path)


@pytest.mark.parametrize("kind", ["npz", "keras 3 weights", "keras 1 weights", ".keras"])
def test_no_classifier_in_the_file_is_refused(tmp_path, kind):
    path = write(kind, keras_applications_like("vgg19"), tmp_path)
    with pytest.raises(NetworkError, match="Expected 19 layers.*16.*include_top"):
        vn.build("vgg19", weights=path, include_top=True)


@pytest.mark.parametrize("kind", ["npz", "keras 3 weights", "keras 1 weights", ".keras"])
@pytest.mark.parametrize("damage", ["empty", "half", "text"])
def test_damaged_files_are_refused_in_one_line(tmp_path, kind, damage):
    path = write(kind, keras_applications_like("vgg16"), tmp_path)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "text": b"404 "}[damage])
    with pytest.raises(NetworkError, match="Expected .*Received: .*weights") as caught:
        vn.build("vgg16", weights=path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".weights.h5", ".keras", ".pth", ".safetensors"])
def test_a_missing_file_is_refused(tmp_path, suffix):
    with pytest.raises(NetworkError, match="which is not a file"):
        vn.build("vgg19", weights=tmp_path / f"none{suffix}")


@pytest.mark.parametrize("name", ["weights.ckpt", "imagenett", "weights.npy"])
def test_other_kinds_of_files_are_refused(tmp_path, name):
    with pytest.raises(
        NetworkError, match=r"\.h5, \.weights\.h5, \.keras or \.npz, \.safetensors, \.pth"
    ):
        vn.build("vgg19", weights=tmp_path / name)


class Trap:
    """Makes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickled_arrays_are_refused_and_not_run(tmp_path):
    sprung = tmp_path / "sprung"
    path = tmp_path / "weights.npz"
    pickled = np.empty(1, object)
    pickled[0] = Trap(sprung)
    np.savez(path, **{"block1_conv1/kernel": pickled, "block1_conv1/bias": pickled})
    with pytest.raises(NetworkError, match="pickled and executable content is refused"):
        vn.build("vgg19", weights=path)
    assert not sprung.exists()
    # The trap works: NumPy itself springs it when asked to.
    with np.load(path, allow_pickle=True) as file:
        assert file["block1_conv1/kernel"] is not None
    assert sprung.exists()


def test_a_keras_file_with_a_lambda_is_refused_and_not_run(tmp_path):
    sprung, path = tmp_path / "sprung", tmp_path / "weights.keras"
    image = keras.Input((32, 32, 3))
    keras.Model(image, keras.layers.Conv2D(4, 3)(trap(sprung)(image))).save(path)
    sprung.unlink()
    with pytest.raises(NetworkError, match="executable content is refused"):
        vn.build("vgg19", weights=path, last_layer="block1_conv1")
    assert not sprung.exists()
    # The trap works: Keras itself springs it when asked to.
    keras.saving.load_model(path, safe_mode=False)
    assert sprung.exists()


@pytest.mark.parametrize("kind", ["npz", "keras 3 weights", "keras 1 weights", ".keras"])
@pytest.mark.parametrize(("value", "which"), [(np.nan, "kernel"), (np.inf, "bias")])
def test_values_that_are_not_finite_are_refused_by_layer(tmp_path, kind, value, which):
    original = keras_applications_like("vgg19")
    weight = getattr(original.get_layer("block3_conv2"), which)
    array = np.asarray(weight).copy()
    array.flat[-1] = value
    weight.assign(array)
    path = write(kind, original, tmp_path)
    with pytest.raises(NetworkError, match=f"1 NaN or infinite values in the {which} of block3_c"):
        vn.build("vgg19", weights=path)
    # What is cut off does not matter.
    vn.build("vgg19", weights=path, last_layer="block3_conv1")


@pytest.mark.parametrize(
    ("kernel", "bias", "said"),
    [
        ((3, 3, 3, 4), (3,), r"block1_conv1 with a kernel \[3, 3, 3, 4\]"),
        ((4, 3, 3, 3), (4,), r"\[4, 3, 3, 3\]"),  # transposed, as in PyTorch
    ],
)
def test_arrays_of_other_shapes_are_refused(tmp_path, kernel, bias, said):
    path = tmp_path / "weights.npz"
    np.savez(path, **{"block1_conv1/kernel": np.zeros(kernel), "block1_conv1/bias": np.zeros(bias)})
    with pytest.raises(NetworkError, match=said):
        vn.build("vgg19", weights=path, last_layer="block1_conv1")


def test_no_network_names_the_file_and_where_to_place_it(monkeypatch, tmp_path):
    def fail(*_, **options):
        raise Exception("URL fetch failure on https://storage.googleapis.com/x: None -- [Errno -3]")

    monkeypatch.setattr(keras.utils, "get_file", fail)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(NetworkError) as caught:
        vn.build("vgg19", weights="imagenet")
    message = str(caught.value)
    assert str(tmp_path / "models") in message
    assert "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5" in message
    assert "URL fetch failure" in message
    with pytest.raises(NetworkError, match="tf_kernels.h5"):
        vn.build("vgg19", weights="imagenet", include_top=True)


@pytest.mark.parametrize("architecture", ["vgg16", "vgg19"])
@pytest.mark.parametrize("include_top", [False, True])
def test_the_file_is_the_one_that_keras_looks_for(monkeypatch, architecture, include_top):
    asked = []

    def fetch(name, origin, **options):
        asked.append((name, origin, options))
        raise Exception("no network")

    module = getattr(keras.src.applications, architecture)
    monkeypatch.setattr(module.file_utils, "get_file", fetch)
    monkeypatch.setattr(keras.utils, "get_file", fetch)
    with pytest.raises(Exception, match="no network"):
        getattr(module, architecture.upper())(weights="imagenet", include_top=include_top)
    with pytest.raises(NetworkError) as caught:
        loading.load("imagenet", architecture, vgg_layers.weight_shapes(architecture, include_top))
    theirs, ours = asked
    assert ours == theirs
    assert ours[2]["cache_subdir"] == "models"
    assert ours[0] in str(caught.value)


def test_imagenet_weights_are_those_of_the_file_that_keras_fetches(monkeypatch, tmp_path):
    original = keras_applications_like("vgg19")
    path = write("keras 1 weights", original, tmp_path)
    monkeypatch.setattr(keras.utils, "get_file", lambda *_, **options: str(path))
    assert_same(vn.build("vgg19", weights="imagenet"), arrays_of(original))


def test_reading_leaves_the_file_as_it_was(tmp_path):
    for kind in WRITERS:
        path = write(kind, keras_applications_like("vgg16"), tmp_path)
        kept = path.read_bytes()
        shutil.copy(path, tmp_path / "kept")
        vn.build("vgg16", weights=path)
        assert path.read_bytes() == kept, kind
