"""Terraform's plugin protocol, version 6: its messages, made from a table while this is imported.

Only what the stand-in needs is here. A field's number and type are those of ``tfplugin6.proto``;
a field that is left out is skipped by protobuf, so the table may be shorter than the original. No
compiler and no generated code: the same table works with protobuf 5 and later.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import (  # type: ignore[import-untyped]  # its types are a package of their own
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

__all__ = ["MESSAGES", "METHODS", "SERVICE"]

SERVICE: Final = "tfplugin6.Provider"

# Message → its fields, each "number name type"; a star says that it is repeated.
_FIELDS: Final = {
    "Empty": "",
    # A value: MessagePack from Terraform and to it; JSON only where an old state is read.
    "Value": "1 msgpack bytes, 2 json bytes",
    "Step": "1 attribute_name string",
    "Path": "1 steps Step*",
    "Diagnostic": "1 severity int32, 2 summary string, 3 detail string, 4 attribute Path",
    "RawState": "1 json bytes",
    # The schema
    "Attribute": "1 name string, 2 type bytes, 3 description string, 4 required bool, "
    "5 optional bool, 6 computed bool, 7 sensitive bool",
    "NestedBlock": "1 type_name string, 2 block Block, 3 nesting int32, 4 min_items int64, "
    "5 max_items int64",
    "Block": "1 version int64, 2 attributes Attribute*, 3 block_types NestedBlock*",
    "Schema": "1 version int64, 2 block Block",
    "SchemaEntry": "1 key string, 2 value Schema",
    "Capabilities": "1 plan_destroy bool, 2 get_provider_schema_optional bool",
    "TypeName": "1 type_name string",
    "Metadata": "1 server_capabilities Capabilities, 2 diagnostics Diagnostic*, "
    "3 data_sources TypeName*, 4 resources TypeName*",
    "ProviderSchema": "1 provider Schema, 2 resource_schemas SchemaEntry*, "
    "3 data_source_schemas SchemaEntry*, 4 diagnostics Diagnostic*, 5 provider_meta Schema, "
    "6 server_capabilities Capabilities",
    # Requests and answers
    "ProviderConfig": "1 config Value",
    "ProviderConfigAnswer": "2 diagnostics Diagnostic*",
    "TypedConfig": "1 type_name string, 2 config Value",
    "Diagnostics": "1 diagnostics Diagnostic*",
    "Configure": "1 terraform_version string, 2 config Value",
    "Upgrade": "1 type_name string, 2 version int64, 3 raw_state RawState",
    "UpgradeAnswer": "1 upgraded_state Value, 2 diagnostics Diagnostic*",
    "Read": "1 type_name string, 2 current_state Value",
    "ReadAnswer": "1 new_state Value, 2 diagnostics Diagnostic*",
    "Plan": "1 type_name string, 2 prior_state Value, 3 proposed_new_state Value, 4 config Value",
    "PlanAnswer": "1 planned_state Value, 2 requires_replace Path*, 3 planned_private bytes, "
    "4 diagnostics Diagnostic*",
    "Apply": "1 type_name string, 2 prior_state Value, 3 planned_state Value, 4 config Value",
    "ApplyAnswer": "1 new_state Value, 2 private bytes, 3 diagnostics Diagnostic*",
    "DataAnswer": "1 state Value, 2 diagnostics Diagnostic*",
}

# Procedure → its request and its answer.
METHODS: Final = {
    "GetMetadata": ("Empty", "Metadata"),
    "GetProviderSchema": ("Empty", "ProviderSchema"),
    "ValidateProviderConfig": ("ProviderConfig", "ProviderConfigAnswer"),
    "ConfigureProvider": ("Configure", "Diagnostics"),
    "ValidateResourceConfig": ("TypedConfig", "Diagnostics"),
    "ValidateDataResourceConfig": ("TypedConfig", "Diagnostics"),
    "UpgradeResourceState": ("Upgrade", "UpgradeAnswer"),
    "ReadResource": ("Read", "ReadAnswer"),
    "PlanResourceChange": ("Plan", "PlanAnswer"),
    "ApplyResourceChange": ("Apply", "ApplyAnswer"),
    "ReadDataSource": ("TypedConfig", "DataAnswer"),
    "StopProvider": ("Empty", "Empty"),
}

_MESSAGE: Final = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
_SCALARS: Final = {
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="standin.proto", package="tfplugin6", syntax="proto3"
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field in filter(None, fields.split(", ")):
            number, label, kind = field.split()
            repeated, kind = kind.endswith("*"), kind.rstrip("*")
            message.field.add(
                name=label,
                number=int(number),
                label=3 if repeated else 1,
                type=_SCALARS.get(kind, _MESSAGE),
                type_name=None if kind in _SCALARS else f".tfplugin6.{kind}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tfplugin6.{name}"))
        for name in _FIELDS
    }


MESSAGES: Final = _classes()
