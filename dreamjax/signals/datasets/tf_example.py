"""tf.train.Example without TensorFlow: bytes ⇄ a flat dict of arrays, texts and numbers.

TFDS stores each record as this protocol buffer. Only `protobuf` is needed here: the message is declared in a separate
descriptor pool, so that it never collides with an imported TensorFlow.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

Value = bytes | int | float | list[bytes] | list[int]
Features = Mapping[str, Any]  # name → protobuf's Feature


@cache
def _message() -> Any:
    """Return the class of tf.train.Example (tensorflow/core/example/{example,feature}.proto)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="dreamjax/example.proto", package="tensorflow", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, int, str | None]) -> Any:
        declared = file.message_type.add(name=name)
        for field_name, number, label, kind, type_name in fields:
            added = declared.field.add(name=field_name, number=number, label=label, type=kind)
            if type_name:
                added.type_name = f".tensorflow.{type_name}"
        return declared

    one, many, sub = field.LABEL_OPTIONAL, field.LABEL_REPEATED, field.TYPE_MESSAGE
    message("BytesList", ("value", 1, many, field.TYPE_BYTES, None))
    message("FloatList", ("value", 1, many, field.TYPE_FLOAT, None))
    message("Int64List", ("value", 1, many, field.TYPE_INT64, None))
    feature = message(
        "Feature",
        ("bytes_list", 1, one, sub, "BytesList"),
        ("float_list", 2, one, sub, "FloatList"),
        ("int64_list", 3, one, sub, "Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for alternative in feature.field:
        alternative.oneof_index = 0
    features = message("Features", ("feature", 1, many, sub, "Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=one, type=field.TYPE_STRING)
    entry.field.add(name="value", number=2, label=one, type=sub, type_name=".tensorflow.Feature")
    message("Example", ("features", 1, one, sub, "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def serialise(features: Mapping[str, Value]) -> bytes:
    """Return the Example with these features: bytes, ints, lists of either, floats. Same in, same bytes out."""
    return extended(b"", features)


def extended(data: bytes, features: Mapping[str, Value]) -> bytes:
    """Return a serialised Example with more features."""
    example = _message().FromString(data)
    into = example.features.feature
    for name, value in features.items():
        if isinstance(value, float):
            into[name].float_list.value.append(value)
        elif isinstance(value, int):
            into[name].int64_list.value.append(value)
        elif isinstance(value, bytes):
            into[name].bytes_list.value.append(value)
        elif value and isinstance(value[0], int):
            into[name].int64_list.value.extend(value)
        else:  # an empty list is an empty list of bytes
            into[name].bytes_list.value.extend(value)
            into[name].bytes_list.SetInParent()
    return example.SerializeToString(deterministic=True)


def parse(data: bytes) -> Features:
    """Return feature name → Feature of a serialised Example. Raises protobuf's DecodeError for other bytes."""
    return _message().FromString(data).features.feature
