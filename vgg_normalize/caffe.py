"""`python -m vgg_normalize.caffe IN.caffemodel OUT.npz`: a Caffe VGG as weights for `--weights`.

Reads the few fields of Caffe's NetParameter that matter, in both of its layer formats
(caffe.proto: LayerParameter in field 100, the older V1LayerParameter in field 2).  conv1_1 becomes
block1_conv1, and kernels [out, in, h, w] become [h, w, in, out].  The classifier is left out.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from vgg_normalize.errors import Error, NetworkError

# Message name to its fields: name, number, type, and name of the message where the type is one.
_FIELDS = {
    "Shape": [("dim", 1, "INT64", "")],
    "Blob": [
        ("num", 1, "INT32", ""),
        ("channels", 2, "INT32", ""),
        ("height", 3, "INT32", ""),
        ("width", 4, "INT32", ""),
        ("data", 5, "FLOAT", ""),
        ("shape", 7, "MESSAGE", "Shape"),
    ],
    "Layer": [("name", 1, "STRING", ""), ("blobs", 7, "MESSAGE", "Blob")],
    "OldLayer": [("name", 4, "STRING", ""), ("blobs", 6, "MESSAGE", "Blob")],
    "Net": [("layers", 2, "MESSAGE", "OldLayer"), ("layer", 100, "MESSAGE", "Layer")],
}
_REPEATED = {"dim", "data", "blobs", "layers", "layer"}


def messages() -> dict[str, Any]:
    """Message name to class, for the part of caffe.proto that is read."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe_part.proto", package="caffe_part")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, kind, type_name in fields:
            message.field.add(
                name=field,
                number=number,
                type=getattr(kinds, f"TYPE_{kind}"),
                type_name=f".caffe_part.{type_name}" if type_name else None,
                label=kinds.LABEL_REPEATED if field in _REPEATED else kinds.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe_part.{name}"))
        for name in _FIELDS
    }


def read(path: Path) -> dict[str, np.ndarray]:
    """`<layer>/kernel` and `<layer>/bias` of the convolutions in a .caffemodel.

    Raises:
        NetworkError: The file is not a .caffemodel, or holds none of VGG's convolutions.
    """
    net = messages()["Net"]()
    try:
        net.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise NetworkError(
            f"Expected a .caffemodel. Received: {path} ({error}). Fetch it again."
        ) from error
    arrays: dict[str, np.ndarray] = {}
    for layer in [*net.layer, *net.layers]:
        name = re.fullmatch(r"conv(\d)_(\d)", layer.name)
        if name is None or len(layer.blobs) != 2:
            continue
        kernel, bias = (np.array(blob.data, np.float32) for blob in layer.blobs)
        first = layer.blobs[0]
        shape = tuple(first.shape.dim) or (first.num, first.channels, first.height, first.width)
        target = f"block{name[1]}_conv{name[2]}"
        arrays[f"{target}/kernel"] = kernel.reshape(shape).transpose(2, 3, 1, 0)
        arrays[f"{target}/bias"] = bias
    if not arrays:
        raise NetworkError(
            f"Expected VGG's layers conv1_1 to conv5_4. Received: {path} with none of them. "
            "Give the .caffemodel, not the prototxt."
        )
    return arrays


def main() -> int:
    """Run the command; returns its exit code."""
    if len(sys.argv) != 3:
        print("usage: python -m vgg_normalize.caffe IN.caffemodel OUT.npz", file=sys.stderr)
        return 1
    try:
        arrays = read(Path(sys.argv[1]))
        with Path(sys.argv[2]).open("xb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except Error as error:
        print(f"caffe: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"caffe: Expected to write a new {sys.argv[2]}. Received: {error}.", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
