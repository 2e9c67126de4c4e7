"""A Caffe model becomes weights that `--weights` takes."""

import numpy as np
import pytest

from vgg_normalize import caffe
from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import vgg_layers
from vgg_normalize.weights import loading


def caffemodel(path, arrays, old):
    """Write arrays as Caffe does; `old` uses the V1 layers and the four sizes."""
    kinds = caffe.messages()
    net = kinds["Net"]()
    for name in dict.fromkeys(key.split("/")[0] for key in arrays):
        layer = (net.layers if old else net.layer).add(
            name=name.replace("block", "conv").replace("_conv", "_")
        )
        kernel = arrays[f"{name}/kernel"].transpose(3, 2, 0, 1)
        for array in (kernel, arrays[f"{name}/bias"]):
            blob = layer.blobs.add(data=array.ravel().tolist())
            if old:
                sizes = (1,) * (4 - array.ndim) + array.shape
                blob.num, blob.channels, blob.height, blob.width = sizes
            else:
                blob.shape.dim.extend(array.shape)
    (net.layers if old else net.layer).add(name="pool1")
    path.write_bytes(net.SerializeToString())


def draw(last_layer, seed):
    """Random weights of VGG19 as (kernel, bias) by layer, and as arrays by name."""
    drawn = loading.random(vgg_layers.weight_shapes("vgg19", last_layer=last_layer), seed)
    return drawn, {
        f"{name}/{kind}": array
        for name, pair in drawn.items()
        for kind, array in zip(("kernel", "bias"), pair, strict=True)
    }


@pytest.mark.parametrize("old", [False, True])
def test_a_caffe_model_gives_the_same_arrays(tmp_path, old):
    _, arrays = draw("block2_conv1", 3)
    caffemodel(tmp_path / "net.caffemodel", arrays, old)
    found = caffe.read(tmp_path / "net.caffemodel")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_the_converted_file_is_read_as_weights(tmp_path, monkeypatch):
    drawn, arrays = draw("block1_conv2", 4)
    caffemodel(tmp_path / "net.caffemodel", arrays, False)
    monkeypatch.setattr(
        "sys.argv", ["caffe", str(tmp_path / "net.caffemodel"), str(tmp_path / "net.npz")]
    )
    assert caffe.main() == 0
    shapes = {name: kernel.shape for name, (kernel, _) in drawn.items()}
    read = loading.load(tmp_path / "net.npz", "vgg19", shapes).arrays
    np.testing.assert_array_equal(read["block1_conv2"][0], drawn["block1_conv2"][0])
    assert caffe.main() == 4, "nothing is overwritten"


def test_something_else_is_refused(tmp_path):
    (tmp_path / "net.caffemodel").write_bytes(b"name: 'VGG'")
    with pytest.raises(NetworkError, match="Expected"):
        caffe.read(tmp_path / "net.caffemodel")
