from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
API = ROOT / "tests" / "typing" / "api.py"


class Wronged(ast.NodeTransformer):
    """Asserts of every expression a type that no expression has."""

    def __init__(self) -> None:
        self.count = 0

    def visit_Call(self, node: ast.Call) -> ast.Call:
        if ast.unparse(node.func) == "assert_type":
            self.count += 1
            node.args[1] = ast.Name("Nothing")
        return node


def mypy(*files: Path, path: Path) -> str:
    """The report of mypy as `make lint` configures it, with a cache of its own."""
    arguments = ["--cache-dir", str(path / "cache"), "--no-error-summary", "--hide-error-context"]
    found = subprocess.run(
        [sys.executable, "-m", "mypy", *arguments, *map(str, files)],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode in (0, 1), found.stderr
    return found.stdout


def test_results_have_the_types_that_are_promised(tmp_path: Path) -> None:
    """Every assertion in tests/typing/api.py holds, and is reported when its type is wrong.

    Ignored errors are wrong uses that mypy has to refuse; without the ignores each is reported.
    """
    source = API.read_text()
    wronged = Wronged()
    tree = wronged.visit(ast.parse(source))
    wrong = tmp_path / "wrong.py"
    # Comments are not in the tree: the refused calls are there, without their ignores.
    wrong.write_text(f"{ast.unparse(tree)}\n\nclass Nothing: ...\n")
    refused = re.findall(r"# type: ignore\[([a-z-]+)\]", source)
    report = mypy(API, wrong, path=tmp_path).splitlines()
    assert [line for line in report if "wrong.py" not in line] == []
    codes = sorted(line.rpartition("[")[2].rstrip("]") for line in report if ": error: " in line)
    assert codes == sorted(["assert-type"] * wronged.count + refused)
    assert wronged.count > 50
