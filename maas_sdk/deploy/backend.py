"""Terraform's shared state: a folder of a bucket.

Terraform merges a file whose name ends with ``_override.tf`` over the others, so this one works for
a stack that names no backend and for one that does. The rule: the state's path is made of
project, region and name, so two people who deploy the same thing share one state, and two
deployments never do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from maas_sdk.errors import ConfigError

__all__ = ["BACKEND", "StateBucket"]

# In the folder of the stack.
BACKEND: Final = "backend_override.tf"

# https://cloud.google.com/storage/docs/buckets#naming
# 222 characters with dots, and 63 for each part between them.
_BUCKET: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]|\.(?=[a-z0-9])){1,220}[a-z0-9]")
_LONGEST_PART: Final = 63


@dataclass(frozen=True, kw_only=True, slots=True)
class StateBucket:
    """A bucket, and the folder in it for one deployment.

    Attributes:
        bucket: its name; it exists.
        prefix: the folder.
    """

    bucket: str
    prefix: str

    def __post_init__(self) -> None:
        parts = self.bucket.split(".")
        if (
            not _BUCKET.fullmatch(self.bucket)
            or max(map(len, parts)) > _LONGEST_PART
            # Reserved by Google.
            or self.bucket.startswith("goog")
        ):
            raise ConfigError(
                f"--state-bucket {self.bucket!r}: expected the name of a bucket, such as "
                "my-project-states: 3 to 63 of a-z, 0-9, - and _, without gs:// and without a "
                "folder"
            )

    @classmethod
    def of(cls, bucket: str, project_id: str, region: str, name: str) -> StateBucket:
        """Return the state's place for a deployment. Raises ``ConfigError`` for a bad bucket."""
        return cls(bucket=bucket, prefix=f"maas/{project_id}/{region}/{name}")

    @property
    def url(self) -> str:
        """URL ``gs://bucket/prefix``."""
        return f"gs://{self.bucket}/{self.prefix}"

    @property
    def block(self) -> str:
        """Backend block that Terraform reads."""
        return (
            "# Written by maas deploy --state-bucket.\n"
            'terraform {\n  backend "gcs" {\n'
            f'    bucket = "{self.bucket}"\n    prefix = "{self.prefix}"\n'
            "  }\n}\n"
        )
