"""``docs/wire.md`` says what the code does.

Its tables are written anew by:  python tests/test_wire_docs.py
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from maas_sdk.errors import TRAITS
from maas_sdk.tensors import BITS
from maas_sdk.wire.frames import Call, FrameLimits, encode_calls

PAGE = Path(__file__).parent.parent / "docs" / "wire.md"

LIMIT_WORDS = {
    "max_bytes": "bytes of the frame",
    "max_calls": "calls, or results, in a frame",
    "max_tensors": "tensors in a call, or result",
    "max_rank": "dimensions of a tensor",
    "max_name_bytes": "UTF-8 bytes of an id, or of the name of a program or tensor",
    "max_head_bytes": "bytes of a call, or result, in the head",
}


def tables() -> dict[str, str]:
    """The tables that are made from the code, by the heading above them."""
    codes = ["| code | HTTP | gRPC | retry | |", "| --- | --: | --: | --- | --- |"]
    for kind, row in TRAITS.items():
        retry = "yes" if row.retryable else "no"
        sentence = (kind.__doc__ or "").splitlines()[0]
        codes.append(
            f"| `{row.code}` | {row.http_status} | {row.grpc_code} | {retry} | {sentence} |"
        )
    limits = ["| limit | default | |", "| --- | --: | --- |"]
    for name, default in FrameLimits._field_defaults.items():
        limits.append(f"| `{name}` | {default:,} | {LIMIT_WORDS[name]} |")
    dtypes = ["| bits | dtypes |", "| --: | --- |"]
    for bits in sorted(set(BITS.values())):
        names = ", ".join(f"`{name}`" for name, width in BITS.items() if width == bits)
        dtypes.append(f"| {bits} | {names} |")
    return {
        "Codes": "\n".join(codes),
        "Limits": "\n".join(limits),
        "Dtypes": "\n".join(dtypes),
    }


def section(heading: str) -> str:
    found = re.search(rf"^### {heading}\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.S | re.M)
    assert found, heading
    return found[1]


@pytest.mark.parametrize("heading", sorted(tables()))
def test_tables(heading: str) -> None:
    """Codes, limits and dtypes on the page are those of the code."""
    assert tables()[heading] in section(heading), "run python tests/test_wire_docs.py"


def test_the_example() -> None:
    """The bytes of the worked example are the bytes that the code writes."""
    found = re.search(r"```hex\n(.*?)```", PAGE.read_text(), re.S)
    assert found
    digits = ""
    for line in found[1].splitlines():
        digits += line[:48]  # comments stand to the right
    call = Call("a", {"x": np.array([[1, -2]], np.float32)})
    assert b"".join(encode_calls([call])).hex(" ") == bytes.fromhex(digits).hex(" ")


if __name__ == "__main__":
    text = PAGE.read_text()
    for name, table in tables().items():
        body = section(name)
        old = re.search(r"(?:^\|.*\n)+|^[A-Z]{5,}\n", body, re.M)
        assert old, name
        text = text.replace(body, body.replace(old[0], table + "\n"))
    PAGE.write_text(text)
