"""The fixtures of the providers' schemas, and how they are read out of a wheel."""

from __future__ import annotations

import base64
import copy
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.terraform.cloud import SCHEMAS
from tests.terraform.extract_schema import BETA, compare, extract, main, types_in_use

FIXTURES = {
    file.stem: json.loads(file.read_text(encoding="utf-8")) for file in SCHEMAS.glob("*.json")
}
TYPESCRIPT = """
export interface ThingConfig extends cdktf.TerraformMetaArguments {
  /**
  * How large. Possible values: ["SMALL", "LARGE"]
  *
  * Docs at Terraform Registry: {@link https://x/docs/resources/thing#size Thing#size}
  */
  readonly size?: string;
}
export function thingRuleToHclTerraform(struct?: ThingRule): any {
  const attrs = {
    tags: {
      value: cdktf.listMapperHcl(cdktf.stringToHclTerraform, false)(struct!.tags),
      isBlock: false,
      type: "set",
    },
  };
}
export class ThingRuleOutputReference extends cdktf.ComplexObject {
  // tags - computed: false, optional: true, required: false
  private _tags?: string[];
  public get tags() {
    return cdktf.Fn.tolist(this.getListAttribute('tags'));
  }
}
export class ThingSeenOutputReference extends cdktf.ComplexObject {
  // at - computed: true, optional: false, required: false
  public get at() {
    return this.getStringAttribute('at');
  }
}
export class Thing extends cdktf.TerraformResource {
  public constructor(scope: Construct, id: string, config: ThingConfig) {
    super(scope, id, {
      terraformResourceType: 'google_thing',
    });
  }

  // count - computed: false, optional: true, required: false
  private _count?: number;
  public get count() {
    return this.getNumberAttribute('count');
  }

  // labels - computed: false, optional: true, required: false
  private _labels?: { [key: string]: string };
  public get labels() {
    return this.getStringMapAttribute('labels');
  }

  // name - computed: false, optional: false, required: true
  private _name?: string;
  public get name() {
    return this.getStringAttribute('name');
  }

  // size - computed: true, optional: true, required: false
  private _size?: string;
  public get size() {
    return this.getStringAttribute('size');
  }

  // seen - computed: true, optional: false, required: false
  private _seen = new ThingSeenList(this, "seen", false);
  public get seen() {
    return this._seen;
  }

  // rule - computed: false, optional: false, required: true
  private _rule = new ThingRuleOutputReference(this, "rule");
  public get rule() {
    return this._rule;
  }

  protected synthesizeHclAttributes(): { [name: string]: any } {
    const attrs = {
      rule: {
        value: thingRuleToHclTerraform(this._rule.internalValue),
        isBlock: true,
        type: "list",
      },
    };
  }
}
"""
PROVIDER = """
export class GoogleProvider extends cdktf.TerraformProvider {
  public constructor(scope: Construct, id: string) {
    super(scope, id, {
      terraformResourceType: 'google',
        providerVersion: '9.8.7',
    });
  }

  // alias - computed: false, optional: true, required: false
  private _alias?: string;
  public get alias() {
    return this._alias;
  }

  // project - computed: false, optional: true, required: false
  private _project?: string;
  public get project() {
    return this._project;
  }

  // batching - computed: false, optional: true, required: false
  private _batching?: GoogleProviderBatching[] | cdktf.IResolvable;
  public get batching() {
    return this._batching;
  }
}
"""


def wheel(path: Path, **pages: str) -> Path:
    """A wheel as the generator of the bindings makes it, with these pages."""
    tarball = io.BytesIO()
    with tarfile.open(fileobj=tarball, mode="w:gz") as tar:
        for folder, text in pages.items():
            mapped = base64.b64encode(json.dumps({"sourcesContent": [text]}).encode()).decode()
            code = f"//# sourceMappingURL=data:application/json;base64,{mapped}".encode()
            member = tarfile.TarInfo(f"package/lib/{folder}/index.js")
            member.size = len(code)
            tar.addfile(member, io.BytesIO(code))
    metadata = "Metadata-Version: 2.1\nName: cdktf-cdktf-provider-google\nVersion: 1.2.3\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x-1.dist-info/METADATA", metadata + "License: MPL-2.0\n\n")
        file.writestr("x/_jsii/provider-google@1.2.3.jsii.tgz", tarball.getvalue())
    return path


def test_a_page_becomes_a_schema(tmp_path: Path) -> None:
    """Types, flags, blocks, objects that are computed, documented choices; and where it is from."""
    path = wheel(tmp_path / "a.whl", provider=PROVIDER, thing=TYPESCRIPT)
    found = extract(path, ("google_thing",))
    ((source, schemas),) = found["provider_schemas"].items()
    assert source == "registry.terraform.io/hashicorp/google"
    assert schemas["resource_schemas"]["google_thing"]["block"] == {
        "attributes": {
            "count": {"type": "number", "optional": True},
            "labels": {"type": ["map", "string"], "optional": True},
            "name": {"type": "string", "required": True},
            "seen": {"type": ["list", ["object", {"at": "string"}]], "computed": True},
            "size": {"type": "string", "optional": True, "computed": True},
        },
        "block_types": {
            "rule": {
                "nesting_mode": "list",
                "min_items": 1,
                "max_items": 1,
                "block": {"attributes": {"tags": {"type": ["set", "string"], "optional": True}}},
            }
        },
    }
    assert schemas["provider"]["block"]["attributes"] == {
        "project": {"type": "string", "optional": True}
    }
    assert found["choices"] == {"google_thing.size": ["SMALL", "LARGE"]}
    assert found["provider_version"] == "9.8.7"
    assert found["origin"] == {
        "license": "MPL-2.0",
        "package": "cdktf-cdktf-provider-google",
        "version": "1.2.3",
    }


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    """A type that the wheel lacks, and a getter of a form that nobody has seen."""
    path = wheel(tmp_path / "a.whl", provider=PROVIDER, thing=TYPESCRIPT)
    with pytest.raises(ValueError, match=r"a\.whl has no google_other"):
        extract(path, ("google_other", "google_thing"))
    strange = TYPESCRIPT.replace("this.getNumberAttribute('count')", "magic('count')")
    path = wheel(tmp_path / "b.whl", provider=PROVIDER, thing=strange.replace("?: number", ""))
    with pytest.raises(ValueError, match=r"Thing\.count: its type is written in a way"):
        extract(path, ("google_thing",))


@pytest.mark.parametrize("name", ["google", "google-beta"])
def test_the_fixtures_are_of_the_types_in_use(name: str) -> None:
    """No type of terraform/ is missing, none is there for nothing; small, and of known origin."""
    fixture = FIXTURES[name]
    (schemas,) = fixture["provider_schemas"].values()
    held = {*schemas["resource_schemas"], *(f"data.{d}" for d in schemas["data_source_schemas"])}
    used = {kind for kind in types_in_use() if (kind in BETA) == (name == "google-beta")}
    assert held == used, "write them anew: tests/terraform/schema/README.md"
    assert fixture["provider_version"] == "6.50.0"
    origin = fixture["origin"]
    page = (SCHEMAS / "README.md").read_text(encoding="utf-8")
    package = origin["package"].replace("_", "-")
    assert f"| `{name}.json` | {package} | {origin['version']} | {origin['license']} |" in page
    assert (SCHEMAS / f"{name}.json").stat().st_size < 200_000


def test_the_comparison_finds_each_difference() -> None:
    """Types and attributes that only one has, another type, another flag, in nested blocks too."""
    ours = FIXTURES["google"]
    assert compare(ours, ours) == []
    real = copy.deepcopy(ours)
    (schemas,) = real["provider_schemas"].values()
    blocks: dict[str, Any] = schemas["resource_schemas"]
    del blocks["google_redis_instance"]
    bucket = blocks["google_storage_bucket"]["block"]
    del bucket["attributes"]["rpo"]
    bucket["attributes"]["location"] = {"type": "number", "required": True}
    bucket["attributes"]["fresh"] = {"type": "string", "optional": True}
    versioning = bucket["block_types"]["versioning"]["block"]["attributes"]["enabled"]
    del versioning["required"]
    assert sorted(compare(ours, real)) == [
        "google_redis_instance: the provider has none",
        "google_storage_bucket.fresh: only in the provider",
        "google_storage_bucket.location: type is string in the fixture, number in the provider",
        "google_storage_bucket.rpo: only in the fixture",
        "google_storage_bucket.versioning.enabled: required is True in the fixture, None in the "
        "provider",
    ]


def test_the_command_of_the_workflow_compares(tmp_path: Path) -> None:
    """`--compare` is silent where all is equal, and fails with a line per difference."""
    real: dict[str, Any] = {"provider_schemas": {}}
    for fixture in FIXTURES.values():
        real["provider_schemas"] |= copy.deepcopy(fixture["provider_schemas"])
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(real), encoding="utf-8")
    with pytest.raises(SystemExit) as equal:
        main(["--compare", str(file)])
    assert equal.value.code is None
    google = real["provider_schemas"]["registry.terraform.io/hashicorp/google"]
    del google["data_source_schemas"]["google_project"]
    file.write_text(json.dumps(real), encoding="utf-8")
    with pytest.raises(SystemExit) as different:
        main(["--compare", str(file)])
    assert different.value.code == "google_project: the provider has none"
