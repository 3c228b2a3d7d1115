"""tf.train.Example without TensorFlow: bytes ⇄ a flat dict of arrays, texts and numbers.

TFDS stores each record as this protocol buffer. Only `protobuf` is needed here: the message is declared in a separate
descriptor pool, so that it never collides with an imported TensorFlow.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

Value = bytes | int | list[bytes] | list[int]
Features = Mapping[str, Any]  # name → protobuf's Feature
PROTO = """
name: "dreamjax/example.proto" package: "tensorflow" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type {
  name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 oneof_index: 0 label: LABEL_OPTIONAL type_name: ".tensorflow.BytesList" }
  field { name: "float_list" number: 2 oneof_index: 0 label: LABEL_OPTIONAL type_name: ".tensorflow.FloatList" }
  field { name: "int64_list" number: 3 oneof_index: 0 label: LABEL_OPTIONAL type_name: ".tensorflow.Int64List" }
}
message_type {
  name: "Features"
  nested_type {
    name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type_name: ".tensorflow.Feature" }
  }
  field { name: "feature" number: 1 label: LABEL_REPEATED type_name: ".tensorflow.Features.FeatureEntry" }
}
message_type {
  name: "Example" field { name: "features" number: 1 label: LABEL_OPTIONAL type_name: ".tensorflow.Features" }
}
"""  # tensorflow/core/example/{example,feature}.proto


@cache
def _message() -> Any:
    """Return the class of tf.train.Example."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(PROTO, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def extended(data: bytes, features: Mapping[str, Value]) -> bytes:
    """Return a serialised Example with more features (of b"", an empty one). Same in, same bytes out."""
    example = _message().FromString(data)
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        into = example.features.feature[name]
        if values and isinstance(values[0], int):
            into.int64_list.value.extend(values)
        else:  # an empty list is an empty list of bytes
            into.bytes_list.value.extend(values)
            into.bytes_list.SetInParent()
    return example.SerializeToString(deterministic=True)


def parse(data: bytes) -> Features:
    """Return feature name → Feature of a serialised Example. Raises protobuf's DecodeError for other bytes."""
    return _message().FromString(data).features.feature
