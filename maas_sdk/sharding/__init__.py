"""Layout of a model and its batches over devices: the mesh and the rules on it."""

from maas_sdk.sharding.explain import explain
from maas_sdk.sharding.layout import Layout, lay_out, place, place_batch, state_shardings
from maas_sdk.sharding.mesh import describe_mesh, make_mesh
from maas_sdk.sharding.pipeline import Pipelined, pipeline
from maas_sdk.sharding.rules import LOGICAL_AXES, RULES, Rule
from maas_sdk.sharding.strategies import mesh_for

__all__ = [
    "LOGICAL_AXES",
    "RULES",
    "Layout",
    "Pipelined",
    "Rule",
    "describe_mesh",
    "explain",
    "lay_out",
    "make_mesh",
    "mesh_for",
    "pipeline",
    "place",
    "place_batch",
    "state_shardings",
]
