"""Wheels of generated bindings → schema/google.json and schema/google-beta.json.

The provider is hundreds of megabytes and talks to a registry; its schema also lies in the Python
wheels of its CDKTF bindings, which PyPI has. In such a wheel is a jsii tarball; in that, each
resource is a JavaScript file with its TypeScript in an inline source map. The text is generated and
regular. Of every attribute and nested block it says ::

    // name - computed: false, optional: true, required: false

then comes a getter, whose call tells the type, and at the end ``synthesizeHclAttributes``, which
tells lists from sets and maps. What it does not say (secrets, replacement) is in cloud.py.

    pip download --no-deps cdktf-cdktf-provider-google==16.12.1 \\
        cdktf-cdktf-provider-google-beta==16.12.1
    python -m tests.terraform.extract_schema cdktf_cdktf_provider_google*.whl
    python -m tests.terraform.extract_schema --compare schema.json   # of the real provider

Only the types that terraform/ uses are kept. The second form compares with what
``terraform providers schema -json`` prints where the real provider is installed.
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, Final

__all__ = ["compare", "extract", "types_in_use"]

TERRAFORM: Final = Path(__file__).parents[2] / "terraform"
SCHEMAS: Final = Path(__file__).parent / "schema"
# Not in the google provider at this version.
BETA: Final = ("google_tpu_v2_queued_resource", "google_tpu_v2_vm")

_SCALARS: Final = {"String": "string", "Number": "number", "Boolean": "bool", "Any": "dynamic"}
_MEMBER: Final = re.compile(
    r"^  // (\w+) - computed: (true|false), optional: (true|false), required: (true|false)\n", re.M
)
_CLASS: Final = re.compile(r"^export class (\w+) extends cdktf\.(\w+) \{\n(.*?)^\}", re.M | re.S)
_HCL: Final = re.compile(r"^export function (\w+)ToHclTerraform\(.*?^\}\n", re.M | re.S)
_INTERFACE: Final = re.compile(r"^export interface (\w+)[^\n]*\{\n(.*?)^\}\n", re.M | re.S)
_SOURCE_MAP: Final = re.compile(rb"sourceMappingURL=data:application/json;base64,(\S+)")
_DOC: Final = re.compile(r"/\*\*\n((?:(?!\*/).)*)\*/\n  readonly \w+\??:", re.S)


def types_in_use(folder: Path = TERRAFORM) -> tuple[str, ...]:
    """Resource types of the folder's files, and data sources as "data.TYPE", sorted."""
    found = set()
    for file in folder.rglob("*.tf"):
        for keyword, kind in re.findall(
            r'^(resource|data) "(google_\w+)"', file.read_text(encoding="utf-8"), re.M
        ):
            found.add(f"data.{kind}" if keyword == "data" else kind)
    return tuple(sorted(found))


class _Page:
    """The TypeScript of one resource."""

    def __init__(self, text: str) -> None:
        self.classes = {name: (parent, body) for name, parent, body in _CLASS.findall(text)}
        # Interface in lower case → attribute → "list", "set", "struct", "map"; "" is the resource.
        self.kinds = {m[1].lower(): _kinds(m[0], indent=4) for m in _HCL.finditer(text)}
        if "protected synthesizeHclAttributes()" in text:
            end = text.rpartition("protected synthesizeHclAttributes()")[2]
            self.kinds[""] = _kinds(end, indent=6)
        # (interface, attribute) → the values that its documentation lists.
        self.choices = dict(_choices(text))

    def block(
        self, name: str, top: str, path: tuple[str, ...], choices: dict[str, list[str]]
    ) -> dict[str, Any]:
        """The block of one class; ``top`` is "resource", "data", "provider", or "" inside one."""
        parts = _MEMBER.split(self.classes[name][1])[1:]
        interface = f"{name}Config" if top else name.removesuffix("OutputReference")
        kinds = self.kinds.get("" if top else interface.lower(), {})
        attributes: dict[str, Any] = {}
        blocks: dict[str, Any] = {}
        for label, computed, optional, required, code in zip(
            *(parts[i::5] for i in range(5)), strict=True
        ):
            flags = {"computed": computed, "optional": optional, "required": required}
            flags = {flag: True for flag, value in flags.items() if value == "true"}
            if listed := self.choices.get((interface, label)):
                choices[".".join((*path, label))] = listed
            inner = re.search(r"new (\w+?)(List|OutputReference)\(this, \"\w+\"(, true)?", code)
            if inner is None:
                if top == "provider" and "[] | cdktf.IResolvable" in code:
                    continue  # blocks of the provider's own settings, which nobody here sets
                attributes[label] = {"type": _type(code, f"{name}.{label}"), **flags}
                continue
            child, cardinality, as_set = inner.groups()
            nested = self.block(f"{child}OutputReference", "", (*path, label), choices)
            kind = kinds.get(label) or ("set" if as_set else "list")
            if "computed" in flags:  # an attribute that holds objects: blocks are never computed
                attributes[label] = {"type": [kind, _object(nested)], **flags}
                continue
            blocks[label] = {
                "nesting_mode": "single" if kind == "struct" else kind,
                "block": nested,
                **({"min_items": 1} if "required" in flags else {}),
                **({"max_items": 1} if (cardinality, kind) == ("OutputReference", "list") else {}),
            }
        return {"attributes": attributes, **({"block_types": blocks} if blocks else {})}


def _kinds(code: str, *, indent: int) -> dict[str, str]:
    gap = " " * indent
    return dict(re.findall(rf'^{gap}(\w+): {{\n(?:{gap}  .*\n)*?{gap}  type: "(\w+)"', code, re.M))


def _choices(text: str) -> Iterator[tuple[tuple[str, str], list[str]]]:
    for interface, body in _INTERFACE.findall(text):
        for doc in _DOC.findall(body):
            listed = re.search(r"Possible values: \[(.*?)\]", doc, re.S)
            label = re.search(r"\{@link \S+#(\w+) ", doc)
            if listed and label:
                yield (interface, label[1]), re.findall(r'"([^"]*)"', listed[1])


def _type(code: str, where: str) -> Any:
    """An attribute's type, from its getter; the provider's have none, so from their field."""
    if found := re.search(r"new cdktf\.(\w+?)Map(List)?\(this", code):
        kind = ["map", _SCALARS[found[1]]]
        return ["list", kind] if found[2] else kind
    if found := re.search(r"(Fn\.tolist\()?this\.get(String|Number|Boolean|Any)?(List|Map)?", code):
        scalar = _SCALARS[found[2] or "String"]
        container = {"List": "set" if found[1] else "list", "Map": "map", None: None}[found[3]]
        return [container, scalar] if container else scalar
    if "this.interpolationForAttribute" in code:
        return "dynamic"
    if found := re.search(r"private _\w+\??: ([^;|]+?)(?: \| cdktf\.IResolvable)?; ?\n", code):
        return {
            "string": "string",
            "boolean": "bool",
            "number": "number",
            "string[]": ["list", "string"],
            "{ [key: string]: string }": ["map", "string"],
        }[found[1].strip()]
    raise ValueError(f"{where}: its type is written in a way that is not known:\n{code[:300]}")


def _object(block: Mapping[str, Any]) -> list[Any]:
    kinds = {name: attribute["type"] for name, attribute in block["attributes"].items()}
    for name, nested in block.get("block_types", {}).items():
        kinds[name] = [nested["nesting_mode"], _object(nested["block"])]
    return ["object", kinds]


def _pages(wheel: zipfile.ZipFile, folders: Mapping[str, str]) -> dict[str, str]:
    """Folder in the tarball → type → its TypeScript, which may be several files."""
    texts: dict[str, str] = {}
    tarball = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(tarball)), mode="r|gz") as tar:
        for member in tar:
            found = re.fullmatch(r"package/lib/([\w-]+)/(?:index-structs/)?\w+\.js", member.name)
            if found and found[1] in folders and (file := tar.extractfile(member)):
                inline = _SOURCE_MAP.search(file.read())
                assert inline, member.name
                (source,) = json.loads(base64.b64decode(inline[1]))["sourcesContent"]
                kind = folders[found[1]]
                texts[kind] = texts.get(kind, "") + source + "\n"
    return texts


def extract(path: Path, types: tuple[str, ...]) -> dict[str, Any]:
    """The schema of a provider, of these types alone, as Terraform prints it.

    Beside it stand "origin" (package, version, license of the wheel), "provider_version" and
    "choices" (path of an attribute → the values that its documentation lists).

    Raises:
        ValueError: a type is not in the wheel, or the text is of another form than expected.
    """
    with zipfile.ZipFile(path) as wheel:
        metadata = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        about = HeaderParser().parsestr(wheel.read(metadata).decode())
        # cdktf-cdktf-provider-google-beta → google-beta, whose folders begin with google-
        provider = about["Name"].partition("-provider-")[2].replace("_", "-")
        prefix = "google-" if provider == "google-beta" else ""
        folders = {"provider": "provider"}
        for kind in types:
            name = kind.removeprefix("data.").removeprefix("google_").replace("_", "-")
            data = "data-google-" if kind.startswith("data.") else prefix
            folders[f"{data}{name}"] = kind
        texts = _pages(wheel, folders)
    if missing := sorted(set(folders.values()) - set(texts)):
        raise ValueError(f"{path.name} has no {', '.join(missing)}")
    schemas: dict[str, Any] = {"resource_schemas": {}, "data_source_schemas": {}}
    choices: dict[str, list[str]] = {}
    for kind, text in texts.items():
        page = _Page(text)
        group = {"TerraformResource": "resource", "TerraformDataSource": "data"}
        ((name, parent),) = [
            (name, parent)
            for name, (parent, _) in page.classes.items()
            if parent in ("TerraformResource", "TerraformDataSource", "TerraformProvider")
        ]
        block = page.block(name, group.get(parent, "provider"), (kind,), choices)
        schema = {"version": 0, "block": block}
        if kind == "provider":
            del block["attributes"]["alias"]
            schemas["provider"] = schema
        elif kind.startswith("data."):
            schemas["data_source_schemas"][kind.removeprefix("data.")] = schema
        else:
            schemas["resource_schemas"][kind] = schema
    version = re.search(r"providerVersion: '([\d.]+)'", texts["provider"])
    return {
        "format_version": "1.0",
        "origin": {
            "license": about["License"],
            "package": about["Name"],
            "version": about["Version"],
        },
        "provider_version": version[1] if version else None,
        "provider_schemas": {f"registry.terraform.io/hashicorp/{provider}": schemas},
        "choices": choices,
    }


def compare(ours: Mapping[str, Any], real: Mapping[str, Any]) -> list[str]:
    """Where a fixture differs from the real provider's schema, a line each.

    What the bindings do not carry is not compared: secrets, deprecations, descriptions, write-only
    attributes, limits above one, the schemas' own versions.
    """
    found: list[str] = []
    for source, schemas in ours["provider_schemas"].items():
        theirs = real["provider_schemas"][source]
        for group in ("resource_schemas", "data_source_schemas"):
            for kind, schema in schemas[group].items():
                other = theirs[group].get(kind)
                if other is None:
                    found.append(f"{kind}: the provider has none")
                else:
                    found += _differences(schema["block"], other["block"], kind)
    return found


def _differences(ours: Mapping[str, Any], real: Mapping[str, Any], path: str) -> Iterator[str]:
    for part in ("attributes", "block_types"):
        mine, theirs = ours.get(part, {}), real.get(part, {})
        for name in sorted(mine.keys() ^ theirs.keys()):
            yield f"{path}.{name}: only in {'the fixture' if name in mine else 'the provider'}"
        for name in sorted(mine.keys() & theirs.keys()):
            facts = ("type", "required", "optional", "computed", "nesting_mode", "min_items")
            for fact in facts:
                a, b = mine[name].get(fact) or None, theirs[name].get(fact) or None
                if a != b:
                    yield f"{path}.{name}: {fact} is {a} in the fixture, {b} in the provider"
            if part == "block_types":
                yield from _differences(
                    mine[name]["block"], theirs[name]["block"], f"{path}.{name}"
                )


def main(arguments: list[str]) -> None:
    """Write the fixtures from two wheels, or compare them with the real schema."""
    if arguments[:1] == ["--compare"]:
        real = json.loads(Path(arguments[1]).read_text(encoding="utf-8"))
        found = [
            line
            for file in sorted(SCHEMAS.glob("*.json"))
            for line in compare(json.loads(file.read_text(encoding="utf-8")), real)
        ]
        sys.exit("\n".join(found) or None)
    used = types_in_use()
    for wheel in map(Path, arguments):
        beta = "google_beta" in wheel.name
        types = tuple(kind for kind in used if (kind in BETA) == beta)
        schema = extract(wheel, types)
        out = SCHEMAS / ("google-beta.json" if beta else "google.json")
        out.write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"{out.name}: {len(types)} types, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
