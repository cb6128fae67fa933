"""What Google's cloud adds to the provider's schema, as far as the tests need it.

The schema comes from generated bindings, which say nothing of secrets, of replacement, or of the
values that the cloud fills in. Each entry is from the provider's documentation of that resource.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tests.terraform.standin import Hook, Knowledge, StandIn

__all__ = ["PROJECT", "REGION", "SCHEMAS", "SECRET", "providers"]

SCHEMAS: Final = Path(__file__).parent / "schema"
PROJECT: Final = "maas-test"
REGION: Final = "europe-west1"
# The password that the cloud gives each Redis; tests search for it where it must not be.
SECRET: Final = "hush-9d1c"

_Rule = Callable[[dict[str, Any], dict[str, Any]], Any]


def _text(pattern: str) -> _Rule:
    """From the resource's own attributes."""
    return lambda resource, config: pattern.format_map(resource)


_KNOWLEDGE: Final = Knowledge(
    sensitive=(
        "google_monitoring_notification_channel.sensitive_labels.auth_token",
        "google_monitoring_notification_channel.sensitive_labels.password",
        "google_monitoring_notification_channel.sensitive_labels.service_key",
        "google_redis_instance.auth_string",
        "google_secret_manager_secret_version.secret_data",
        "google_storage_bucket_object.content",
        "google_storage_bucket_object.customer_encryption.encryption_key",
    ),
    replaced_by={
        "*": ("name", "project", "location", "region", "zone", "role", "member"),
        "google_billing_budget": ("billing_account",),
        "google_project_service": ("service",),
        "google_redis_instance": ("tier", "transit_encryption_mode", "authorized_network"),
        "google_secret_manager_secret": ("secret_id",),
        "google_secret_manager_secret_version": ("secret", "secret_data"),
        "google_service_account": ("account_id",),
        "google_storage_bucket_iam_member": ("bucket",),
        "google_storage_bucket_object": ("bucket", "source", "detect_md5hash", "content_type"),
        "google_tpu_v2_vm": ("runtime_version", "accelerator_type"),
    },
    protected=("google_cloud_run_v2_service",),
    computed={
        "*.project": lambda resource, config: config.get("project"),
        "data.google_project.number": lambda resource, config: "123456789012",
        "data.google_project.project_id": lambda resource, config: config.get("project"),
        "data.google_storage_project_service_account.email_address": _text(
            "service-123456789012@gs-project-accounts.iam.gserviceaccount.com"
        ),
        "data.google_storage_project_service_account.member": _text(
            "serviceAccount:service-123456789012@gs-project-accounts.iam.gserviceaccount.com"
        ),
        "google_cloud_run_v2_service.uri": _text("https://{name}-abc123-ew.a.run.app"),
        "google_cloudfunctions2_function.url": _text(
            "https://{location}-{project}.cloudfunctions.net/{name}"
        ),
        "google_cloudfunctions2_function.service_config.service": _text(
            "projects/{project}/locations/{location}/services/{name}"
        ),
        "google_cloudfunctions2_function.service_config.uri": _text(
            "https://{name}-abc123-ew.a.run.app"
        ),
        "google_redis_instance.auth_string": lambda resource, config: SECRET,
        "google_redis_instance.host": lambda resource, config: "10.0.0.3",
        "google_redis_instance.port": lambda resource, config: 6378,
        "google_secret_manager_secret.id": _text("projects/{project}/secrets/{secret_id}"),
        "google_service_account.email": _text("{account_id}@{project}.iam.gserviceaccount.com"),
        "google_service_account.member": _text(
            "serviceAccount:{account_id}@{project}.iam.gserviceaccount.com"
        ),
        "google_service_account.name": _text(
            "projects/{project}/serviceAccounts/{account_id}@{project}.iam.gserviceaccount.com"
        ),
        "google_storage_bucket.id": _text("{name}"),
        "google_storage_bucket.url": _text("gs://{name}"),
    },
)


def providers(hooks: Mapping[str, Hook] | None = None) -> tuple[StandIn, StandIn]:
    """Fresh stand-ins for google and google-beta, over an empty cloud."""
    knowledge = dataclasses.replace(_KNOWLEDGE, hooks=hooks or {})
    google, beta = (
        StandIn(json.loads((SCHEMAS / name).read_text(encoding="utf-8")), knowledge)
        for name in ("google.json", "google-beta.json")
    )
    return google, beta
