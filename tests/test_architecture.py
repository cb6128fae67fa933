"""The rules of the house as law: who may import whom, how large a file is, what is public."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "maas_sdk"

# The floors, from the ground up. Each package: the packages of ours that it may import, and the
# third-party modules; modules that only some of its files may import are in PRIVILEGED.
GROUND = {"errors", "faces", "tensors"}
FORMATS = {*GROUND, "bundle", "store", "wire"}


@dataclass(frozen=True)
class Floor:
    """What a package may import."""

    ours: set[str]
    theirs: set[str]


LAW = {
    # ground
    "errors": Floor(set(), set()),
    "faces": Floor(set(), set()),
    "tensors": Floor({"errors"}, {"numpy"}),
    "charts": Floor({"errors"}, set()),
    "reports": Floor({"errors", "charts"}, set()),
    "children": Floor({"errors", ""}, set()),
    # formats
    "bundle": Floor(GROUND, {"numpy"}),
    "store": Floor({*GROUND, "bundle"}, {"numpy"}),
    "wire": Floor(GROUND, {"numpy"}),
    # service
    "runtime": Floor({*GROUND, "bundle"}, {"numpy"}),
    "serve": Floor({*FORMATS, "runtime"}, {"numpy"}),
    # files of rows; and batch: such files through the service's runtime
    "tables": Floor({*GROUND, "bundle"}, {"numpy"}),
    "batch": Floor({*FORMATS, "runtime", "tables"}, {"numpy"}),
    # client
    "client": Floor({*GROUND, "wire"}, {"numpy"}),
    # the workshop's ground
    "model": Floor({*GROUND, "bundle"}, {"numpy", "jax", "flax"}),
    "hlo": Floor({"errors", "faces"}, {"numpy"}),
    "tpu": Floor({*GROUND, "children", "hlo"}, {"numpy", "jax"}),
    "distributed": Floor({*GROUND}, {"numpy", "jax"}),
    # workshop
    "evaluate": Floor({*GROUND, "charts", "reports"}, {"numpy", "jax", "flax"}),
    "models": Floor({*GROUND}, {"numpy", "jax", "flax"}),
    "sharding": Floor({*GROUND, "charts", "model"}, {"numpy", "jax", "flax"}),
    "training": Floor(
        {*GROUND, "charts", "model", "reports", "sharding", "tables"},
        {"numpy", "jax", "flax", "optax", "grain", "orbax"},
    ),
    # Of the exporter it takes what times a program.
    "compress": Floor(
        {*GROUND, "bundle", "charts", "evaluate", "export", "model", "reports"},
        {"numpy", "jax", "flax", "scipy", "optax"},
    ),
    # The workshop's one door to the service: what is exported is compiled and verified by the code
    # that will serve it. "" is the package itself, for its version.
    "export": Floor(
        {*GROUND, "", "bundle", "children", "model", "runtime", "tpu"}, {"numpy", "jax", "flax"}
    ),
    "plan": Floor(
        {*GROUND, "charts", "hlo", "model", "models", "reports", "sharding", "tpu", "training"},
        {"numpy", "jax", "flax"},
    ),
    # roof
    "deploy": Floor({*FORMATS}, {"numpy"}),
    "demo": Floor(
        {
            *FORMATS,
            *("charts", "client", "compress", "deploy", "evaluate", "export", "models"),
            *("reports", "training"),
        },
        {"numpy", "jax", "flax", "rich"},
    ),
    # Roof: a served model and its client in one process.
    "testing": Floor({*GROUND, "client", "export", "runtime", "serve"}, {"numpy"}),
    "cli": Floor(
        {
            *FORMATS,
            "",
            *("batch", "charts", "client", "compress", "demo", "deploy", "evaluate", "export"),
            *("model", "models", "plan", "runtime", "serve", "sharding", "tables", "tpu"),
            "training",
        },
        {"numpy", "typer", "rich", "jax"},
    ),
    "": Floor(set(), set()),
}

# Module → the only files that may import it, and why them.
PRIVILEGED = {
    # No promised interface: what a new jaxlib breaks is mended in one place.
    "jaxlib._jax": {"runtime/xla.py"},
    "jaxlib._hlo": {"runtime/xla.py"},
    "jaxlib.cpu": {"runtime/xla.py"},
    # MLIR bindings; the workshop walks the modules that jax lowers.
    "jaxlib": {"runtime/xla.py", "export/stablehlo.py"},
    # One seam for HTTP; the shells name its client classes.
    "httpx": {"client/transport.py", "client/sync.py", "client/aio.py", "testing/endpoint.py"},
    # A convenience that the client works without.
    "rich": {"client/progress.py", "training/run/progress.py"},
    # A log format that training works without.
    "tensorboardX": {"training/run/metric_logs.py"},
    # Loaded when one of its dtypes is met, so that a client that speaks float32 never does. A
    # worker that starts loads it early: jaxlib imports it anyway.
    "ml_dtypes": {"tensors.py", "wire/json_tensor.py", "serve/start.py"},
    "msgpack": {"wire/frame_reader.py", "wire/frame_writer.py", "serve/start.py"},
    # The web frameworks are shells around an endpoint that knows none.
    "flask": {"serve/shells/function.py"},
    "functions_framework": {"cli/study/demo.py", "cli/serving/bench.py", "cli/build/package.py"},
    "uvicorn": {"cli/serving/serve.py"},
    # The metrics of classifiers, in the extra [evaluate]; the demo's digits.
    "sklearn": {"evaluate/accuracy.py", "demo/digits.py"},
    # Fills the reports' templates.
    "jinja2": {"reports/page.py"},
    "markupsafe": {"reports/page.py"},
    # Patches JAX while a model is traced; what it gives leaves the file as a plain module.
    "qwix": {"training/qtraining.py"},
    "PIL": {"tables/images.py"},
    # A codec of the extra [zstd]; a bundle without such tensors is served without it.
    "zstandard": {"bundle/encoding/entropy.py"},
    # Signatures and encryption, in the extra [seal]; a plain bundle is opened without.
    "cryptography": {"bundle/crypto/primitives.py"},
    # Buckets, in the extra [gcp].
    "google": {"store/gcs.py"},
    "google_crc32c": {"store/gcs.py"},
    # Lines of JSON, in the extra [data]; without it the standard library reads them.
    "orjson": {"tables/json_codec.py"},
    # In the extra [data].
    "pyarrow": {"tables/arrow.py"},
    # The quantiles of mixup's Beta distribution; jax depends on scipy anyway.
    "scipy": {"training/data/augment.py"},
}

# Files longer than one sitting, each with the reason.
MAX_LINES = 350
LONGER: dict[str, str] = {
    "runtime/xla.py": "the one file that may touch jaxlib: processors and accelerators alike",
}

# Names that say nothing about what is inside; a core is the pure part of a shell beside it.
VAGUE = {"utils", "util", "common", "misc", "helpers", "base", "tools"}

# Files of a folder, its face included: more are two ideas.
MAX_FILES = 20


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def package_of(name: str) -> str:
    """client/sync.py → client, errors.py → errors, __init__.py → ""."""
    return name.partition("/")[0].removesuffix(".py").replace("__init__", "")


FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {name_of(file): ast.parse(file.read_text()) for file in FILES}


BY_NAME = {"__import__", "importlib.import_module", "import_module"}


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of all that is imported, wherever in the file, for types alone included."""
    match tree:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level, lineno=line):
            assert level == 0, f"relative import in line {line}"
            # Submodules are imported by name as well: from maas_sdk.runtime import xla.
            yield from (f"{module}.{alias.name}" for alias in names)
        case ast.Call(func=func, args=[argument, *_]) if ast.unparse(func) in BY_NAME:
            yield str(argument.value) if isinstance(argument, ast.Constant) else "<any>"
    for child in ast.iter_child_nodes(tree):
        yield from imports(child)


IMPORTS = {name: sorted(set(imports(tree))) for name, tree in TREES.items()}


def ours(module: str) -> str | None:
    """The package of ours that a module is in; None for other people's."""
    top, _, rest = module.partition(".")
    if top != "maas_sdk":
        return None
    part = rest.partition(".")[0]
    return part if part in LAW else ""


def test_every_package_has_its_floor():
    """The table names all packages that are there, and none that is not."""
    assert {package_of(name) for name in TREES} == set(LAW)


@pytest.mark.parametrize("name", TREES)
def test_imports_point_down(name):
    """A file imports only packages that its own may, also inside functions."""
    package = package_of(name)
    up = [
        module
        for module in IMPORTS[name]
        if (found := ours(module)) is not None
        and found != package
        and found not in LAW[package].ours
    ]
    assert up == [], f"{name} imports {up}; allowed are {sorted(LAW[package].ours)}"


def test_the_three_wings_never_meet():
    """Workshop, service and client agree through the formats alone; export is the one door."""
    wings = {
        "workshop": {*("models", "sharding", "training", "compress", "evaluate", "export")},
        "service": {"runtime", "serve"},
        "client": {"client"},
    }
    for wing, packages in wings.items():
        others = set.union(*(p for w, p in wings.items() if w != wing))
        for package in packages:
            met = LAW[package].ours & others
            assert met == ({"runtime"} if package == "export" else set()), package


def test_the_floors_have_no_circle():
    """Taking away packages that import none of the rest, again and again, leaves nothing."""
    left = {package: set(floor.ours) for package, floor in LAW.items()}
    while ready := [package for package, needs in left.items() if not needs & left.keys()]:
        for package in ready:
            del left[package]
    assert left == {}


def test_no_file_imports_itself_by_a_detour():
    """The same for single files: the graph of modules has no circle."""
    modules = {
        f"maas_sdk.{name}".removesuffix(".py").removesuffix(".__init__").replace("/", "."): name
        for name in TREES
    }

    def targets(name: str) -> set[str]:
        found = set()
        for module in IMPORTS[name]:
            # "package.name" is either a submodule or a name inside the package.
            target = modules.get(module) or modules.get(module.rpartition(".")[0])
            # A package's own __init__ gathers its files; they may say the package's name.
            if target and target != name and not target.endswith("__init__.py"):
                found.add(target)
        return found

    left = {name: targets(name) for name in TREES}
    while ready := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in ready:
            del left[name]
    assert left == {}


@pytest.mark.parametrize("name", TREES)
def test_other_peoples_packages(name):
    """A file imports only third-party modules that its package, or the file itself, may."""
    package = package_of(name)
    for module in IMPORTS[name]:
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or top == "maas_sdk":
            continue
        if module == "<any>":
            # Names of a face, inside its package; and what the user names on the command line.
            assert name in ("faces.py", "model/load_object.py"), (
                f"{name} imports a module that only it knows"
            )
            continue
        # The most special rule decides: jaxlib._jax before jaxlib.
        special = [m for m in PRIVILEGED if module == m or module.startswith(f"{m}.")]
        allowed = name in PRIVILEGED[max(special, key=len)] if special else False
        assert allowed or top in LAW[package].theirs, f"{name} imports {module}"


def test_no_privilege_is_idle():
    """A file that no longer imports a module loses the right to."""
    for module, files in PRIVILEGED.items():
        for name in files:
            found = [m for m in IMPORTS[name] if m == module or m.startswith(f"{module}.")]
            assert found, f"{name} does not import {module}"


@pytest.mark.parametrize("name", TREES)
def test_a_file_is_read_in_one_sitting(name):
    """350 lines, or a reason; and a name that says what is inside."""
    lines = len((PACKAGE / name).read_text().splitlines())
    assert lines <= MAX_LINES or name in LONGER, f"{name} has {lines} lines: split it by noun"
    parts = {part.removesuffix(".py").strip("_") for part in name.split("/")}
    assert not parts & VAGUE, f"{name} is named after nothing"


def test_a_folder_is_one_idea():
    """No folder holds more than twenty files."""
    files = Counter(file.parent for file in FILES)
    assert {name_of(folder): n for folder, n in files.items() if n > MAX_FILES} == {}


@pytest.mark.parametrize("name", TREES)
def test_a_path_says_each_thing_once(name):
    """``training/step.py``, never ``step/step.py`` nor ``step/step_state.py``."""
    folder = Path(name).parent.name
    stem = Path(name).stem
    assert not folder or (stem != folder and not stem.startswith(f"{folder}_")), name


def test_a_public_class_name_exists_once():
    """Whoever reads a class name in a traceback or a search knows which one it is."""
    found = defaultdict(list)
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(name)
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_no_reason_is_idle():
    """A file that became short leaves the list."""
    for name in LONGER:
        assert len((PACKAGE / name).read_text().splitlines()) > MAX_LINES


def public_names(tree: ast.Module) -> set[str]:
    """Functions, classes and constants at the top of a file whose names have no underscore."""
    found = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.ClassDef(name=name):
                found.add(name)
            case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar"))):
                pass
            case ast.Assign(targets=targets):
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
    return {name for name in found if not name.startswith("_")}


def stated(tree: ast.Module) -> list[str] | None:
    """``__all__``, or None."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


def by_kind(name: str) -> tuple[int, list[str | int]]:
    """CONSTANTS, Classes, functions, BIN8 before BIN32: the order in which ruff sorts names."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@pytest.mark.parametrize("name", TREES)
def test_what_is_public_is_said_twice(name):
    """``__all__`` is sorted, and is what has no underscore, and what the file passes on."""
    tree = TREES[name]
    said = stated(tree)
    defined = public_names(tree)
    if said is None:
        assert defined == set(), f"{name} has public names and no __all__"
        return
    assert said == sorted(said, key=by_kind), f"{name}: __all__ is not sorted"
    # A face whose names are imported when they are asked for has their imports for types alone.
    lazy = "__getattr__ = lazy_names(" in ast.unparse(tree)
    passed_on = {
        alias.asname or alias.name
        for node in (ast.walk(tree) if lazy else tree.body)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert defined <= set(said), f"{name}: public, but not in __all__"
    type_variables = {
        ast.unparse(node.targets[0])
        for node in tree.body
        if isinstance(node, ast.Assign) and "TypeVar(" in ast.unparse(node.value)
    }
    assert set(said) <= defined | passed_on | type_variables, f"{name}: in __all__, but not there"


@pytest.mark.parametrize("name", TREES)
def test_every_file_says_what_it_is_for(name):
    """A module opens with a sentence."""
    docstring = ast.get_docstring(TREES[name])
    assert docstring, f"{name} has no docstring"
    assert re.match(r"\S.*[.:]", docstring.partition("\n\n")[0], re.DOTALL)


@pytest.mark.parametrize("file", sorted(TESTS.glob("test_*.py")), ids=lambda file: file.name)
def test_every_test_states_its_promise(file):
    """The docstring of a test is the promise that it keeps."""
    silent = [
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_the_law_sees_what_is_hidden():
    """Imports inside functions, by name and for types alone count."""
    code = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import flax
else:
    import optax
def f():
    from jaxlib import _jax
    try:
        import httpx.client
    except ImportError:
        __import__("rich")
    importlib.import_module(name)
"""
    assert set(imports(ast.parse(code))) == {
        *("typing.TYPE_CHECKING", "flax", "optax", "jaxlib._jax"),
        *("httpx.client", "rich", "<any>"),
    }
    assert (ours("maas_sdk.runtime.xla.XlaClient"), ours("maas_sdk.__version__")) == ("runtime", "")
    assert ours("msgpack") is None


def test_what_tests_share_has_one_name():
    """``tests.kit.gcs``, never ``gcs``: the same file under two names would be two modules."""
    shared = {file.stem for file in TESTS.rglob("*.py")} | {"terraform", "reference"}
    for file in (*TESTS.rglob("*.py"), *TESTS.parent.glob("bench/**/*.py")):
        found = {module.partition(".")[0] for module in imports(ast.parse(file.read_text()))}
        assert not found & shared, f"{file}: from tests. import {found & shared}"
