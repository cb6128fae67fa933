"""Layout of a model and its batches over devices: the mesh and the rules on it."""

from __future__ import annotations

from maas_sdk.sharding.activations import keep_rows_cut
from maas_sdk.sharding.explain import explain
from maas_sdk.sharding.layout import (
    Layout,
    lay_out,
    place,
    place_batch,
    replicated,
    state_shardings,
)
from maas_sdk.sharding.mesh import describe_mesh, make_mesh
from maas_sdk.sharding.pipeline import Pipelined, pipeline, stack_blocks, stage_sharding
from maas_sdk.sharding.rules import LOGICAL_AXES, RULES, Rule
from maas_sdk.sharding.schedule import bubble_share, schedule
from maas_sdk.sharding.strategies import mesh_for

__all__ = [
    "LOGICAL_AXES",
    "RULES",
    "Layout",
    "Pipelined",
    "Rule",
    "bubble_share",
    "describe_mesh",
    "explain",
    "keep_rows_cut",
    "lay_out",
    "make_mesh",
    "mesh_for",
    "pipeline",
    "place",
    "place_batch",
    "replicated",
    "schedule",
    "stack_blocks",
    "stage_sharding",
    "state_shardings",
]
