from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from forks import program
from helpers import draw_weights, images, python, small_vgg, trap
from keras import layers
from PIL import Image

import vgg_normalize as vn
from vgg_normalize import saved_network, vgg
from vgg_normalize.errors import NetworkError, OutputError
from vgg_normalize.networks import chain, vgg_layers

pytestmark = pytest.mark.slow

# What any chain can be saved as and read from; "adain" is the whole VGG19 only, and "onnx" is run.
FORMATS = [form for form in saved_network.FORMATS if form not in ("adain", "onnx")]
BLOCKS = ["block1", "block2", "block3", "block4", "block5"]


def arbitrary_means(model, seed=0):
    """Means as if measured: the export does not look at where they come from."""
    random = np.random.default_rng(seed)
    channels = {
        stage.layer.name: stage.layer.kernel.shape[-1]
        for stage in chain.stages(model)
        if stage.rectified
    }
    mean = {name: random.uniform(0.5, 2, c) for name, c in channels.items()}
    error = {name: 0.01 * m for name, m in mean.items()}
    return vn.Means(mean, error, dict.fromkeys(mean, 1024), 64)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A network with all layers of VGG19, saved once in all formats: (model, means, directory)."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_vgg(monkeypatch, (16, 32, 48, 64, 64))
        model = draw_weights(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19")))
    means = arbitrary_means(model)
    normal = vn.normalize(model, means)
    directory = tmp_path_factory.mktemp("export") / "out"
    settings = {"image_size": 48, "resize": "squash", "seed": 7}
    vn.save(normal, means, directory, formats=FORMATS, settings=settings)
    return normal, means, directory


@pytest.fixture
def cut(monkeypatch):
    """A network quick to save: (model, means)."""
    small_vgg(monkeypatch)
    model = draw_weights(
        vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19", last_layer="block2_conv1"))
    )
    return model, arbitrary_means(model)


def assert_close(found, expected, names=None):
    assert sorted(found) == sorted(names or expected)
    for name in found:
        value = np.asarray(found[name])
        assert np.allclose(value, expected[name], rtol=1e-5, atol=1e-5 * value.max()), name


def live(model, image):
    found = vn.features(model)(image)
    return {name: value.numpy() for name, value in found.items()}


CONSUMER = """
import sys
sys.modules["vgg_normalize"] = None  # importing them fails
sys.modules["keras"] = None
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
image = tf.constant(np.load(sys.argv[2]))

def loss(found):
    return sum(tf.reduce_mean(f * f) for f in found.values())

def gradient(image, function):
    with tf.GradientTape() as tape:
        tape.watch(image)
        value = loss(function(image))
    return tape.gradient(value, image)

with tf.GradientTape() as tape:
    tape.watch(image)
    model(image)
watched = len(tape.watched_variables())
out = {f"features/{name}": f for name, f in model(image).items()}
out |= {f"wide/{name}": f for name, f in model(image[:, :17, 3:40]).items()}
out["gradient"] = gradient(image, model)
out["signature_gradient"] = gradient(
    image, lambda image: model.signatures["serving_default"](image=image)
)
compiled = tf.function(lambda image: gradient(image, model), jit_compile=True)
out["compiled_gradient"] = compiled(image)
features = tf.function(lambda image: model(image), jit_compile=True)(image)
out |= {f"compiled/{name}": f for name, f in features.items()}
np.savez(sys.argv[3], **{key: np.asarray(value) for key, value in out.items()})
print(watched, len(model.variables), len(model.trainable_variables),
      len(model.regularization_losses), sum(v.trainable for v in model.variables))
"""


@pytest.fixture(scope="module")
def consumed(made, tmp_path_factory):
    """What a program finds that has TensorFlow and nothing else."""
    folder = tmp_path_factory.mktemp("consumer")
    np.save(folder / "image.npy", images(2, 48, 40))
    moved = folder / "moved"  # nor may it need the place where it was made
    shutil.copytree(made[2] / "saved_model", moved)
    done = python(CONSUMER, moved, folder / "image.npy", folder / "found.npz")
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "found.npz") as file:
        return done.stdout.split(), {name: file[name] for name in file.files}


def part(found, prefix):
    return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}


def test_features_need_nothing_but_tensorflow(made, consumed):
    expected = live(made[0], images(2, 48, 40))
    assert len(expected) == 16
    assert_close(part(consumed[1], "features/"), expected)
    assert_close(part(consumed[1], "compiled/"), expected)


def test_any_size_is_taken(made, consumed):
    expected = live(made[0], images(2, 48, 40)[:, :17, 3:40])
    assert_close(part(consumed[1], "wide/"), expected)


@pytest.mark.parametrize("name", ["gradient", "signature_gradient", "compiled_gradient"])
def test_gradients_are_those_of_the_live_network(made, consumed, name):
    image = tf.constant(images(2, 48, 40))
    extract = vn.features(made[0])
    with tf.GradientTape() as tape:
        tape.watch(image)
        loss = sum(tf.reduce_mean(f * f) for f in extract(image).values())
    expected = tape.gradient(loss, image).numpy()
    assert np.abs(expected).max() > 0
    assert np.abs(consumed[1][name] - expected).max() <= 1e-4 * np.abs(expected).max()


def test_variables_are_there_and_not_watched(consumed):
    watched, variables, trainable, losses, flagged = map(int, consumed[0])
    assert (watched, variables, trainable, losses, flagged) == (0, 32, 0, 0, 0)


@pytest.fixture(scope="module")
def loaded(made):
    return tf.saved_model.load(str(made[2] / "saved_model"))


def test_signatures_are_those_of_the_contract(loaded):
    assert sorted(loaded.signatures) == sorted(
        [*BLOCKS, "serving_default", "vgg_input", "image_bytes"]
    )


def test_serving_default_is_the_model(made, loaded):
    image = images(1, 32, 48)
    assert_close(loaded.signatures["serving_default"](image=image), live(made[0], image))


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_give_their_features_and_compute_no_further(made, loaded, block):
    image = images(1, 32, 48)
    expected = {k: v for k, v in live(made[0], image).items() if k.startswith(block)}
    signature = loaded.signatures[block]
    assert_close(signature(image=image), expected)
    depth = sum(vgg_layers.DEPTHS["vgg19"][: BLOCKS.index(block) + 1])
    assert convolutions(signature) == depth


def convolutions(signature):
    """How many convolutions the graph of a signature has, functions that it calls included."""
    definition = signature.graph.as_graph_def()
    nodes = list(definition.node)
    for function in definition.library.function:
        nodes += list(function.node_def)
    return sum(node.op == "Conv2D" for node in nodes)


def test_vgg_input_takes_what_preprocess_input_gives(made, loaded):
    image = images(1, 32, 48)
    pixels = keras.applications.vgg19.preprocess_input(image * 255)
    assert_close(loaded.signatures["vgg_input"](image=pixels), live(made[0], image))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_image_bytes_are_decoded_and_resized_as_measured(made, loaded, form):
    encoded = []
    for seed, size in ((0, (70, 60)), (1, (48, 90))):
        file = io.BytesIO()
        pixels = (images(1, *size, seed=seed)[0] * 255).astype(np.uint8)
        Image.fromarray(pixels).resize((96, 96)).save(file, form)
        encoded.append(file.getvalue())
    decoded = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in encoded]
    resized = tf.image.resize(np.float32(decoded), (48, 48), antialias=True) / 255
    found = loaded.signatures["image_bytes"](bytes=tf.constant(encoded))
    assert_close(found, live(made[0], resized))


def test_native_size_has_no_image_bytes(cut, tmp_path):
    vn.save(*cut, tmp_path / "out", formats=["saved_model"], settings={"resize": "none"})
    signatures = tf.saved_model.load(str(tmp_path / "out" / "saved_model")).signatures
    assert sorted(signatures) == ["block1", "block2", "serving_default", "vgg_input"]


def test_works_as_a_keras_layer(made):
    layer = layers.TFSMLayer(made[2] / "saved_model", call_endpoint="serving_default")
    image = keras.Input((None, None, 3))
    model = keras.Model(image, layer(image))
    assert not model.trainable_weights
    assert_close(model(images(2, 40, 40)), live(made[0], images(2, 40, 40)))


def test_integer_pictures_are_refused(loaded):
    with pytest.raises((TypeError, ValueError)):
        loaded(tf.zeros((1, 32, 32, 3), tf.uint8))


def test_weights_are_stored_once(made):
    model, _, directory = made
    stored = sum(
        x.stat().st_size for x in (directory / "saved_model" / "variables").glob("*.data*")
    )
    needed = sum(array.nbytes for array in model.get_weights())
    assert needed <= stored < 1.02 * needed
    # Nor are they constants of the graphs.
    assert (directory / "saved_model" / "saved_model.pb").stat().st_size < needed


def test_assets_tell_means_and_settings(made):
    _, means, directory = made
    told = json.loads((directory / "saved_model" / "assets" / "means.json").read_text())
    assert told["images"] == 64
    assert told["settings"] == {"image_size": 48, "resize": "squash", "seed": 7}
    assert list(told["means"]) == list(means.mean)
    for name, one in told["means"].items():
        assert one["mean"] == means.mean[name].tolist()
        assert one["standard_error"] == means.standard_error[name].tolist()
        assert one["positions"] == 1024


def test_assets_of_a_single_image_are_plain_json(cut, tmp_path):
    # Its standard errors are infinite, which JSON has no number for.
    model, means = cut
    unknown = {name: np.full_like(m, np.inf) for name, m in means.mean.items()}
    means = replace(means, standard_error=unknown)
    vn.save(model, means, tmp_path / "out", formats=["saved_model"])
    text = (tmp_path / "out" / "saved_model" / "assets" / "means.json").read_text()

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(text, parse_constant=refuse)


def test_nothing_tells_where_it_was_made(made):
    _, _, directory = made
    for path in directory.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for place in (directory.parent, Path.cwd(), Path(vn.__file__).parent, Path.home()):
                assert len(str(place)) < 3 or str(place).encode() not in content, (path, place)


def test_npz_holds_kernels_and_biases(made):
    model, _, directory = made
    with np.load(directory / "vgg19_normalized.npz") as file:
        found = {name: file[name] for name in file.files}
    expected = [
        f"{n}/{kind}" for n in vgg_layers.convolutions("vgg19") for kind in ("kernel", "bias")
    ]
    assert list(found) == expected
    for array, weight in zip(found.values(), model.get_weights(), strict=True):
        assert array.dtype == np.float32
        assert (array == weight).all()


def test_means_npz_holds_the_means(made):
    _, means, directory = made
    with np.load(directory / "means.npz") as file:
        assert file["images"] == 64
        for name, mean in means.mean.items():
            assert file[f"{name}/mean"].dtype == np.float64
            assert (file[f"{name}/mean"] == mean).all()
            assert (file[f"{name}/standard_error"] == means.standard_error[name]).all()
            assert file[f"{name}/positions"] == 1024


@pytest.mark.parametrize("architecture", ["vgg16", "vgg19"])
def test_h5_loads_into_keras_applications(tmp_path, architecture):
    model = vn.build(architecture, weights="random")
    means = arbitrary_means(model)
    normal = vn.normalize(model, means)
    vn.save(normal, means, tmp_path / "out", formats=["h5"])
    path = tmp_path / "out" / f"{architecture}_normalized.weights.h5"
    application = getattr(keras.applications, architecture.upper())
    theirs = application(weights=str(path), include_top=False)
    image = images(1, 32, 32)
    found = vn.features(theirs)(keras.applications.vgg19.preprocess_input(image * 255))
    assert_close(found, live(normal, image))


def test_h5_with_the_classifier_loads_into_keras_applications(monkeypatch, tmp_path):
    monkeypatch.setattr(vgg_layers, "CLASSIFIER_SIZE", 32)
    monkeypatch.setattr(vgg_layers, "CLASSIFIER", {"fc1": 4096, "fc2": 4096, "predictions": 10})
    model = vn.build("vgg16", weights="random", include_top=True)
    means = arbitrary_means(model)
    normal = vn.normalize(model, means)
    vn.save(normal, means, tmp_path / "out", formats=["h5"])
    path = tmp_path / "out" / "vgg16_normalized.weights.h5"
    theirs = keras.applications.VGG16(weights=str(path), input_shape=(32, 32, 3), classes=10)
    image = images(2, 32, 32)
    found = theirs(keras.applications.vgg16.preprocess_input(image * 255))
    assert np.allclose(found, model(image), atol=1e-4)


@pytest.mark.parametrize("within", ["", "saved_model"])
def test_load_gives_the_same_network(made, within):
    model, _, directory = made
    again = vn.load(directory / within)
    assert [x.get_config() for x in chain.layers(again)] == [
        x.get_config() for x in chain.layers(model)
    ]
    for before, after in zip(model.get_weights(), again.get_weights(), strict=True):
        assert (before == after).all()
    image = images(1, 33, 61, seed=5)
    expected = live(model, image)
    assert all((value == expected[name]).all() for name, value in live(again, image).items())


def test_saving_what_was_loaded_changes_nothing(made, tmp_path):
    _, means, directory = made
    settings = {"image_size": 48, "resize": "squash", "seed": 7}
    again = vn.load(directory)
    vn.save(again, means, tmp_path / "again", formats=FORMATS, settings=settings)
    third = vn.load(tmp_path / "again")
    for before, after in zip(again.get_weights(), third.get_weights(), strict=True):
        assert (before == after).all()
    for name in ("means.npz", "saved_model/assets/means.json"):
        assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes()
    data = [
        next((x / "saved_model" / "variables").glob("*.data*")).read_bytes()
        for x in (directory, tmp_path / "again")
    ]
    assert data[0] == data[1]


def any_chain():
    return draw_weights(
        keras.Sequential(
            [
                keras.Input((18, 18, 3)),
                layers.Rescaling(2.0, offset=-1.0),
                layers.ZeroPadding2D(1),
                layers.Conv2D(5, 3, strides=2, use_bias=False, name="first"),
                layers.ReLU(name="rectify"),
                layers.Dropout(0.5),
                layers.SpatialDropout2D(0.5),
                layers.AveragePooling2D(2),
                layers.Conv2D(4, 2, activation="relu", trainable=False, name="second"),
                layers.Flatten(),
                layers.Dense(6, activation="relu", name="third"),
                layers.Dense(3, activation="softmax", name="last"),
            ],
            name="own",
        )
    )


def test_any_chain_is_saved_and_loaded(tmp_path):
    model = any_chain()
    means = arbitrary_means(model)
    vn.save(model, means, tmp_path / "out", formats=FORMATS)
    again = vn.load(tmp_path / "out")
    image = images(2, 18, 18)
    assert (again(image).numpy() == model(image).numpy()).all()
    found = tf.saved_model.load(str(tmp_path / "out" / "saved_model"))(image)
    assert_close(found, {**live(model, image), "last": model(image).numpy()})
    signatures = tf.saved_model.load(str(tmp_path / "out" / "saved_model")).signatures
    assert sorted(signatures) == ["image_bytes", "serving_default"]
    for form in FORMATS:
        reloaded = saved_network.reload(model, tmp_path / "out", form)
        assert (reloaded(image).numpy() == model(image).numpy()).all(), form


def test_an_oblong_network_has_no_image_bytes(tmp_path):
    convolution = layers.Conv2D(2, 3, activation="relu", name="first")
    model = keras.Sequential([keras.Input((8, 12, 3)), convolution])
    vn.save(model, arbitrary_means(model), tmp_path / "out", formats=["saved_model"])
    signatures = tf.saved_model.load(str(tmp_path / "out" / "saved_model")).signatures
    assert sorted(signatures) == ["serving_default"]


def test_statistics_of_the_input_are_saved_with_the_network(tmp_path):
    normalization = layers.Normalization()
    normalization.adapt(images(4, 12, 12) * 3 + 1)
    image = keras.Input((None, None, 3))
    convolution = layers.Conv2D(4, 3, activation="relu", name="first")
    model = keras.Model(image, convolution(normalization(image)))
    convolution.bias.assign([0.5, 1.0, 2.0, 4.0])  # no channel is silent
    batch = images(4, 12, 12)
    means = vn.channel_means(model, [batch])
    normal = vn.normalize(model, means)
    assert vn.check(model, normal, means, [batch]).passed
    vn.save(normal, means, tmp_path / "out", formats=["saved_model"])
    assert_close(live(vn.load(tmp_path / "out"), batch), live(normal, batch))
    assert_close(tf.saved_model.load(str(tmp_path / "out/saved_model"))(batch), live(normal, batch))


@pytest.mark.parametrize("form", FORMATS)
def test_reload_gives_what_is_written(made, form):
    model, _, directory = made
    again = saved_network.reload(model, directory, form)
    for before, after in zip(model.get_weights(), again.get_weights(), strict=True):
        assert (before == after).all()


def test_reload_sees_a_weight_that_was_not_written(made, tmp_path):
    model, _, directory = made
    with np.load(directory / "vgg19_normalized.npz") as file:
        arrays = {name: file[name] for name in file.files if name != "block3_conv2/bias"}
    np.savez(tmp_path / "vgg19_normalized.npz", **arrays)
    again = saved_network.reload(model, tmp_path, "npz")
    assert not again.get_layer("block3_conv2").get_weights()[1].any()


def test_an_existing_directory_is_refused(cut, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("kept")
    with pytest.raises(OutputError, match="which exists"):
        vn.save(*cut, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "kept"]


def test_a_place_that_cannot_be_written_is_refused(cut, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Expected to write") as caught:
        vn.save(*cut, tmp_path / "file" / "out")
    assert caught.value.exit_code == 4


def test_an_unknown_format_is_refused_and_leaves_nothing(cut, tmp_path):
    with pytest.raises(OutputError, match="Received: pb"):
        vn.save(*cut, tmp_path / "out", formats=["h5", "pb"])
    assert not list(tmp_path.iterdir())


FULL_DISK = """
import json, os, resource, signal, sys
import numpy as np
import vgg_normalize as vn
from vgg_normalize.errors import OutputError

model = vn.build("vgg19", weights="random", last_layer="block2_conv1")
shapes = {"block1_conv1": 64, "block1_conv2": 64, "block2_conv1": 128}
ones = {name: np.ones(c) for name, c in shapes.items()}
means = vn.Means(ones, ones, dict.fromkeys(ones, 1), 1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
told = []
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for form in ("saved_model", "npz", "h5"):
        try:
            vn.save(model, means, os.path.join(sys.argv[1], "out"), formats=[form])
        except OutputError as error:
            assert "\\n" not in str(error), error
            told.append([limit, form, os.listdir(sys.argv[1])])
print(json.dumps(told))
"""


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    folder, limits = tmp_path / "outputs", (3000, 200_000)
    folder.mkdir()
    told = json.loads(program(FULL_DISK, folder, *limits))
    assert told == [[limit, form, []] for limit in limits for form in ("saved_model", "npz", "h5")]
    assert not list(folder.iterdir())


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0b100
    path.write_bytes(bytes(content))


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "bit flip": ("variables/variables.data-00000-of-00001", flip),
    "truncated": ("variables/variables.data-00000-of-00001", cut_short),
    "no data": ("variables/variables.data-00000-of-00001", Path.unlink),
    "truncated index": ("variables/variables.index", cut_short),
    "no index": ("variables/variables.index", Path.unlink),
    "no graph": ("saved_model.pb", Path.unlink),
    "no means": ("assets/means.json", Path.unlink),
    "truncated means": ("assets/means.json", cut_short),
    "empty means": ("assets/means.json", lambda path: path.write_text("{}")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_network_is_refused(made, tmp_path, damage):
    shutil.copytree(made[2], tmp_path / "out")
    name, spoil = DAMAGES[damage]
    spoil(tmp_path / "out" / "saved_model" / name)
    with pytest.raises(NetworkError, match="Expected .*Received: ") as caught:
        vn.load(tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "out") in str(caught.value)


def test_a_damaged_network_is_refused_by_tensorflow_too(made, tmp_path):
    shutil.copytree(made[2] / "saved_model", tmp_path / "out")
    flip(tmp_path / "out" / "variables" / "variables.data-00000-of-00001")
    with pytest.raises(tf.errors.DataLossError):
        tf.saved_model.load(str(tmp_path / "out"))


def test_a_network_described_with_a_lambda_is_refused(made, tmp_path):
    shutil.copytree(made[2], tmp_path / "out")
    sprung = tmp_path / "sprung"
    path = tmp_path / "out" / "saved_model" / "assets" / "means.json"
    told = json.loads(path.read_text())
    told["network"]["layers"].insert(0, keras.saving.serialize_keras_object(trap(sprung)))
    path.write_text(json.dumps(told))
    with pytest.raises(NetworkError, match="Expected a whole network"):
        vn.load(tmp_path / "out")
    assert not sprung.exists()


def test_a_network_that_names_an_earlier_module_of_its_preprocessing_is_loaded(made, tmp_path):
    """`Preprocessing` was defined in vgg_normalize.vgg, and descriptions name that module."""
    shutil.copytree(made[2], tmp_path / "out")
    asset = tmp_path / "out" / "saved_model" / "assets" / "means.json"
    content = json.loads(asset.read_text())
    description = content["network"]["layers"][0]
    assert description["class_name"] == "Preprocessing"
    assert description["registered_name"] == "vgg_normalize>Preprocessing"
    description["module"] = "vgg_normalize.vgg"
    asset.write_text(json.dumps(content))
    assert vgg.Preprocessing is vn.Preprocessing
    again = vn.load(tmp_path / "out")
    assert (again(images()).numpy() == made[0](images()).numpy()).all()
    # A program of its own, in which nothing has imported the layer before.
    code = "import sys, vgg_normalize as vn; print(vn.load(sys.argv[1]).layers[1].name)"
    done = python(code, tmp_path / "out")
    assert done.stdout.strip() == "preprocessing", done.stderr[-2000:]


def test_a_missing_network_is_refused(tmp_path):
    with pytest.raises(NetworkError, match="Expected a directory that vgg_normalize saved"):
        vn.load(tmp_path / "none")


def test_arguments_are_left_as_they_were(cut, tmp_path):
    model, means = cut
    weights, config = model.get_weights(), model.get_config()
    kept = {name: mean.copy() for name, mean in means.mean.items()}
    vn.save(model, means, tmp_path / "out", formats=FORMATS)
    saved_network.reload(model, tmp_path / "out", "h5")
    assert model.get_config() == config
    assert all((a == b).all() for a, b in zip(weights, model.get_weights(), strict=True))
    assert all((means.mean[name] == kept[name]).all() for name in kept)
    assert all(weight.trainable for weight in model.weights)


def test_the_output_can_be_read_by_others(cut, tmp_path):
    vn.save(*cut, tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
