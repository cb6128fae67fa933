"""A stand-in for a Terraform provider: a cloud that accepts all that the schema allows.

It holds a schema as ``terraform providers schema -json`` prints it. Attributes that the provider
computes are unknown in a plan and known after apply; what was applied is kept in memory. It
checks shapes, documented choices and what ``Knowledge`` adds. It does not check what Google would
say: permissions, quotas, names that are taken.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.terraform.protocol import MESSAGES
from tests.terraform.values import UNKNOWN, decode, encode, invented, is_unknown, walk

__all__ = ["Hook", "Knowledge", "StandIn"]

_NESTING = {"single": 1, "list": 2, "set": 3, "map": 4, "group": 5}
_FLAGS = ("required", "optional", "computed", "sensitive")

# Called when a resource is applied, with its state before and after; None is none. It may set what
# is still unknown in the second, and what it raises fails the apply.
Hook = Callable[[dict[str, Any] | None, dict[str, Any] | None], None]


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What a schema does not say."""

    # Paths of secrets: "google_redis_instance.auth_string"; "data." before those of data sources.
    sensitive: tuple[str, ...] = ()
    # Type, or "*" → attributes whose change replaces the resource.
    replaced_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Types that refuse to be destroyed while their ``deletion_protection`` is true.
    protected: tuple[str, ...] = ()
    # Path, or "*.name" → what the cloud fills in, from the resource and the provider's settings.
    computed: Mapping[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = field(
        default_factory=dict
    )
    hooks: Mapping[str, Hook] = field(default_factory=dict)


class StandIn:
    """One provider: a procedure of the protocol is a method of its name.

    Attributes:
        source: its address, "registry.terraform.io/hashicorp/google".
        calls: what Terraform applied, in order: ("create" | "update" | "delete", type, name).
        cloud: (type, id) → state of what exists.
        config: the provider block, without what is unset.
    """

    def __init__(self, schema: Mapping[str, Any], knowledge: Knowledge | None = None) -> None:
        ((self.source, held),) = copy.deepcopy(schema["provider_schemas"]).items()
        self._provider = held["provider"]
        self._resources: dict[str, Any] = held["resource_schemas"]
        self._data: dict[str, Any] = held["data_source_schemas"]
        self._choices: Mapping[str, list[str]] = schema.get("choices", {})
        self._knowledge = knowledge or Knowledge()
        for path in self._knowledge.sensitive:
            self._seal(path)
        self.calls: list[tuple[str, str, str]] = []
        self.cloud: dict[tuple[str, str], dict[str, Any]] = {}
        self.config: dict[str, Any] = {}
        self._made = 0

    def _seal(self, path: str) -> None:
        schemas = self._data if path.startswith("data.") else self._resources
        kind, *blocks, last = path.removeprefix("data.").split(".")
        if kind in schemas:  # the beta provider knows fewer types
            block = schemas[kind]["block"]
            for name in blocks:
                block = block["block_types"][name]["block"]
            block["attributes"][last]["sensitive"] = True

    # -- what there is

    def GetMetadata(self, request: Any) -> Any:
        answer = MESSAGES["Metadata"]()
        for name in self._resources:
            answer.resources.add(type_name=name)
        for name in self._data:
            answer.data_sources.add(type_name=name)
        return answer

    def GetProviderSchema(self, request: Any) -> Any:
        answer = MESSAGES["ProviderSchema"](
            provider=_schema(self._provider),
            provider_meta=MESSAGES["Schema"](block=MESSAGES["Block"]()),
        )
        for name, schema in self._resources.items():
            answer.resource_schemas.add(key=name, value=_schema(schema))
        for name, schema in self._data.items():
            answer.data_source_schemas.add(key=name, value=_schema(schema))
        return answer

    # -- configuration

    def ValidateProviderConfig(self, request: Any) -> Any:
        return MESSAGES["ProviderConfigAnswer"]()

    def ConfigureProvider(self, request: Any) -> Any:
        given = decode(request.config) or {}
        self.config = {name: value for name, value in given.items() if value not in (None, [])}
        return MESSAGES["Diagnostics"]()

    def ValidateDataResourceConfig(self, request: Any) -> Any:
        return MESSAGES["Diagnostics"]()

    def ValidateResourceConfig(self, request: Any) -> Any:
        answer = MESSAGES["Diagnostics"]()
        kind = request.type_name
        for path, attribute, holder in walk(self._resources[kind]["block"], decode(request.config)):
            value, label = holder.get(path[-1]), ".".join(path)
            choices = self._choices.get(f"{kind}.{label}")
            if value is None or is_unknown(value):
                continue
            if not attribute.get("required") and not attribute.get("optional"):
                _complain(answer, f"{label}: the provider decides it", path)
            if choices and value not in choices:
                _complain(answer, f"expected {label} to be one of {choices}, got {value}", path)
        return answer

    # -- the life of a resource

    def UpgradeResourceState(self, request: Any) -> Any:
        state = MESSAGES["Value"](json=request.raw_state.json)
        return MESSAGES["UpgradeAnswer"](upgraded_state=state)

    def ReadResource(self, request: Any) -> Any:
        state = decode(request.current_state)
        found = self.cloud.get((request.type_name, state.get("id")))
        return MESSAGES["ReadAnswer"](new_state=encode(found))

    def PlanResourceChange(self, request: Any) -> Any:
        answer = MESSAGES["PlanAnswer"]()
        kind = request.type_name
        prior, planned = decode(request.prior_state), decode(request.proposed_new_state)
        if planned is not None:
            for path, attribute, holder in walk(self._resources[kind]["block"], planned):
                if attribute.get("computed") and holder.get(path[-1]) is None:
                    holder[path[-1]] = UNKNOWN
            table = self._knowledge.replaced_by
            for name in (*table.get("*", ()), *table.get(kind, ())) if prior else ():
                if name in planned and planned[name] != prior[name]:
                    answer.requires_replace.add(steps=[MESSAGES["Step"](attribute_name=name)])
        answer.planned_state.CopyFrom(encode(planned))
        return answer

    def ApplyResourceChange(self, request: Any) -> Any:
        kind = request.type_name
        prior, new = decode(request.prior_state), decode(request.planned_state)
        what = "create" if prior is None else "delete" if new is None else "update"
        try:
            if new is None and kind in self._knowledge.protected and prior["deletion_protection"]:
                raise RuntimeError("cannot destroy it without setting deletion_protection=false")
            if hook := self._knowledge.hooks.get(kind):
                hook(prior, new)
        except Exception as error:  # whatever it is, Terraform shows it
            answer = MESSAGES["ApplyAnswer"](new_state=request.prior_state)
            answer.diagnostics.add(severity=1, summary=f"{kind}: {error}")
            return answer
        if prior is not None:
            self.cloud.pop((kind, prior["id"]), None)
        if new is not None:
            self._made += 1
            self._fill(kind, self._resources[kind]["block"], new, f"{kind}/{self._made}")
            self.cloud[kind, new["id"]] = new
        held = new or prior
        self.calls.append((what, kind, held.get("name") or held["id"]))
        return MESSAGES["ApplyAnswer"](new_state=encode(new))

    def ReadDataSource(self, request: Any) -> Any:
        kind = request.type_name
        block, value = self._data[kind]["block"], decode(request.config)
        for path, attribute, holder in walk(block, value):
            if attribute.get("computed") and holder.get(path[-1]) is None:
                holder[path[-1]] = UNKNOWN
        self._fill(f"data.{kind}", block, value, f"data/{kind}")
        return MESSAGES["DataAnswer"](state=encode(value))

    def StopProvider(self, request: Any) -> Any:
        return MESSAGES["Empty"]()

    def _fill(self, kind: str, block: Mapping[str, Any], value: dict[str, Any], name: str) -> None:
        """Make known what is unknown; ``name`` is where invented strings come from."""
        table = self._knowledge.computed
        for path, attribute, holder in walk(block, value):
            if is_unknown(holder.get(path[-1])):
                label = ".".join(path)
                rule = table.get(f"{kind}.{label}") or table.get(f"*.{label}")
                holder[path[-1]] = (
                    rule(value, self.config)
                    if rule
                    else invented(attribute["type"], f"standin/{name}/{label}")
                )


def _complain(answer: Any, summary: str, path: tuple[str, ...]) -> None:
    where = MESSAGES["Path"](steps=[MESSAGES["Step"](attribute_name=path[0])])
    answer.diagnostics.add(severity=1, summary=summary, attribute=where)


def _schema(schema: Mapping[str, Any]) -> Any:
    return MESSAGES["Schema"](version=schema.get("version", 0), block=_block(schema["block"]))


def _block(block: Mapping[str, Any]) -> Any:
    message = MESSAGES["Block"]()
    for name, attribute in sorted(block.get("attributes", {}).items()):
        message.attributes.add(
            name=name,
            type=json.dumps(attribute["type"]).encode(),
            **{flag: True for flag in _FLAGS if attribute.get(flag)},
        )
    for name, nested in sorted(block.get("block_types", {}).items()):
        message.block_types.add(
            type_name=name,
            block=_block(nested["block"]),
            nesting=_NESTING[nested["nesting_mode"]],
            min_items=nested.get("min_items", 0),
            max_items=nested.get("max_items", 0),
        )
    return message
