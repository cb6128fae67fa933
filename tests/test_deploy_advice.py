"""What Terraform and gcloud print when something is missing, and the sentence that it becomes.

The texts are as those programs print them, frames and line breaks included, with made-up names.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.deploy.advice import ADVICE, explain, failure, plain
from maas_sdk.errors import MachineError

NO_LOGIN = """
╷
│ Error: Attempted to load application default credentials since neither `credentials` nor `access_token` was set in the provider block.  No credentials loaded. To use your gcloud credentials, run 'gcloud auth application-default login'
│
│   with provider["registry.terraform.io/hashicorp/google"],
│   on main.tf line 1, in provider "google":
│    1: provider "google" {
│
│ google: could not find default credentials. See https://cloud.google.com/docs/authentication/external/set-up-adc for more information
╵
"""  # noqa: E501

NO_API = """
╷
│ Error: Error creating function: googleapi: Error 403: Cloud Functions API has not been used in
│ project 1054000000085 before or it is disabled. Enable it by visiting
│ https://console.developers.google.com/apis/api/cloudfunctions.googleapis.com/overview?project=1054000000085
│ then retry. If you enabled this API recently, wait a few minutes for the action to propagate to
│ our systems and retry.
│
│   with module.function.google_cloudfunctions2_function.this,
│   on ../../modules/model-function/main.tf line 12, in resource "google_cloudfunctions2_function" "this":
│   12: resource "google_cloudfunctions2_function" "this" {
│
╵
"""  # noqa: E501

BUCKET_TAKEN = """
╷
│ Error: googleapi: Error 409: The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again., conflict
│
│   with module.models.google_storage_bucket.this,
│   on ../../modules/model-store/main.tf line 3, in resource "google_storage_bucket" "this":
│    3: resource "google_storage_bucket" "this" {
│
╵
"""  # noqa: E501

INSTANCES = (
    "Error: Error creating function: googleapi: Error 400: Could not create Cloud Run service "
    "digits. spec.template.spec.containers.resources.limits.cpu: Invalid value specified for cpu. "
    "For the specified value, maxScale may not exceed 10.\nConsider running your workload in a "
    "region with greater capacity, decreasing your requested cpu-per-instance, or requesting an "
    "increase in quota for this region if you are seeing sustained usage near this limit, see "
    "https://cloud.google.com/run/quotas."
)

CASES = [
    (NO_LOGIN, "credentials_missing", "gcloud auth application-default login"),
    (
        "ERROR: (gcloud.storage.cp) You do not currently have an active account selected.\n"
        "Please run:\n\n  $ gcloud auth login\n",
        "credentials_missing",
        "GOOGLE_APPLICATION_CREDENTIALS",
    ),
    (
        "Error: storage.NewClient() failed: dialing: google: could not find default credentials. "
        "See https://developers.google.com/accounts/docs/application-default-credentials",
        "credentials_missing",
        "nobody is logged in",
    ),
    (
        'Error: Get "https://cloudfunctions.googleapis.com/v2/projects/p/locations?alt=json": '
        'oauth2: "invalid_grant" "reauth related error (invalid_rapt)" '
        '"https://support.google.com/a/answer/9368756"',
        "credentials_expired",
        "login` again",
    ),
    (
        "ERROR: (gcloud.functions.deploy) There was a problem refreshing your current auth tokens: "
        "Reauthentication failed. cannot prompt during non-interactive execution.",
        "credentials_expired",
        "no longer valid",
    ),
    (
        NO_API,
        "api_disabled",
        "gcloud services enable cloudfunctions.googleapis.com --project 1054000000085",
    ),
    (
        "Error: Error uploading object a.zip: googleapi: Error 403: The project to be billed is "
        "associated with an absent billing account., accountDisabled",
        "billing",
        "no billing account",
    ),
    (
        "Error: googleapi: Error 403: The billing account for the owning project is disabled in "
        "state absent, accountDisabled",
        "billing",
        "https://console.cloud.google.com/billing",
    ),
    (
        "Error: googleapi: Error 400: Unknown project id: my-projct, invalid",
        "project_wrong",
        "there is no project my-projct,",
    ),
    (
        "ERROR: (gcloud.functions.deploy) NOT_FOUND: Project 'my-projct' not found or permission "
        "denied.",
        "project_wrong",
        "there is no project my-projct,",
    ),
    (
        "Error: googleapi: Error 403: Caller does not have required permission to use project "
        "my-projct. Grant the caller the roles/serviceusage.serviceUsageConsumer role",
        "project_wrong",
        "gcloud projects list",
    ),
    (
        "ERROR: (gcloud.functions.list) The required property [project] is not currently set.\n"
        "The project property is set to the empty string, which is invalid.",
        "project_wrong",
        "there is no project, or",
    ),
    (
        "Error: Error creating function: googleapi: Error 403: Permission denied on "
        "'locations/europe-southwest9' (or it may not exist), forbidden",
        "region_wrong",
        "there is no region europe-southwest9",
    ),
    (
        "Error: Error creating function: googleapi: Error 403: Could not create Cloud Run service "
        "digits. Permission 'iam.serviceaccounts.actAs' denied on service account "
        "digits-run@p.iam.gserviceaccount.com (or it may not exist).",
        "act_as",
        "roles/iam.serviceAccountUser",
    ),
    (
        'Error: Error applying IAM policy for cloudrunv2 service "digits": googleapi: Error 400: '
        "One or more users named in the policy do not belong to a permitted customer, perhaps due "
        "to an organization policy.",
        "policy",
        "leave out --public",
    ),
    (
        "Error: googleapi: Error 412: 'europe-west1' violates constraint "
        "'constraints/gcp.resourceLocations' on the resource 'projects/p'., conditionNotMet",
        "policy",
        "by a policy (constraints/gcp.resourceLocations)",
    ),
    (BUCKET_TAKEN, "bucket_taken", "choose another --name"),
    (
        "Error: Error creating service account: googleapi: Error 409: Service account digits-run "
        "already exists within project projects/p., alreadyExists",
        "name_taken",
        "was not made by this deployment",
    ),
    (
        "ERROR: (gcloud.functions.deploy) ALREADY_EXISTS: Could not create Cloud Run service "
        "digits. Service already exists",
        "name_taken",
        "--workspace",
    ),
    (INSTANCES, "instances_quota", "--max-instances 10"),
    (
        "Error: googleapi: Error 429: Quota exceeded for quota metric 'Write requests' and limit "
        "'Write requests per minute' of service 'run.googleapis.com' for consumer",
        "quota",
        "is used up (Write requests)",
    ),
    (
        "ERROR: (gcloud.builds.submit) RESOURCE_EXHAUSTED: build quota",
        "quota",
        "a quota of the project is used up: wait",
    ),
    (
        "ERROR: (gcloud.functions.deploy) OperationError: code=3, message=Source archive exceeds "
        "the maximum size of 104857600 bytes",
        "too_large",
        "--bundle-from",
    ),
    (
        "Error: Error uploading object: googleapi: got HTTP response code 413 with body: <title>"
        "Error 413 (Request Entity Too Large)!!1</title>",
        "too_large",
        "--container",
    ),
    (
        "Error waiting to create function: Error code 3, message: Build failed with status: "
        "FAILURE and message: ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS "
        "FILE. If you have updated the package versions, please update the hashes.",
        "hash_mismatch",
        "another file than the one that was locked",
    ),
    (
        "Error: Error waiting to create function: Error code 3, message: Build failed with status:"
        " FAILURE and message: installing requirements: exit status 1. For more details see the "
        "logs at https://console.cloud.google.com/cloud-build/builds;region=x",
        "build_failed",
        "the whole log",
    ),
    (
        "Error: Error waiting to create function: Error code 3, message: Could not create or update"
        " Cloud Run service digits, Container Healthcheck failed. Revision 'digits-00001-abc' is "
        "not ready and cannot serve traffic. The user-provided container failed to start and listen"
        " on the port defined provided by the PORT=8080 environment variable.",
        "start_failed",
        "--check",
    ),
    (
        "Memory limit of 256 MiB exceeded with 260 MiB used. Consider increasing the memory limit",
        "memory",
        "its memory (256 MiB)",
    ),
    (
        "Error: Error trying to delete bucket p-digits-models containing objects without "
        "`force_destroy` set to true",
        "bucket_not_empty",
        "--with-models",
    ),
    (
        "Error: googleapi: Error 403: ann@example.com does not have storage.buckets.create access "
        "to the Google Cloud project. Permission 'storage.buckets.create' denied on resource (or "
        "it may not exist)., forbidden",
        "permission",
        "(storage.buckets.create)",
    ),
    (
        "Error: Error creating function: googleapi: Error 403: The caller does not have permission",
        "permission",
        "lacks a permission in the project: have an owner",
    ),
    (
        "╷\n│ Error: Error acquiring the state lock\n│ \n│ Error message: resource temporarily "
        "unavailable\n│ Lock Info:\n│   ID:        5e1c4a8e-0000-0000-0000-000000000000\n╵",
        "state_locked",
        "force-unlock",
    ),
    (
        "╷\n│ Error: Failed to query available provider packages\n│ \n│ Could not retrieve the list"
        " of available versions for provider hashicorp/google: could not connect to "
        "registry.terraform.io: Failed to request discovery document",
        "no_provider",
        "registry.terraform.io once",
    ),
    (
        "╷\n│ Error: Error applying IAM policy for cloudrunv2 service: googleapi: Error 400: User "
        "nobody@example.com does not exist., badRequest\n╵",
        "member_unknown",
        "User nobody@example.com does not exist: check what --invoker names",
    ),
    (
        "╷\n│ Error: Failed to get existing workspaces: querying Cloud Storage failed: storage: "
        "bucket doesn't exist\n╵",
        "state_bucket",
        "gcloud storage buckets create gs://BUCKET",
    ),
    (
        "╷\n│ Error: Unsupported Terraform Core version\n│ \n│   on versions.tf line 2",
        "terraform_old",
        "install a newer one",
    ),
    (
        "╷\n│ Error: Invalid value for variable\n│ \n│   on variables.tf line 1:\n│    1: variable "
        '"name" {\n│ \n│ name: 2 to 20 of a-z, 0-9 and -',
        "variable",
        "the lines below name it",
    ),
    (
        'Error: Post "https://cloudfunctions.googleapis.com/v2/projects/p": dial tcp: lookup '
        "cloudfunctions.googleapis.com: no such host",
        "network",
        "not done twice",
    ),
]


@pytest.mark.parametrize(("output", "code", "words"), CASES, ids=[f"{c[1]}" for c in CASES])
def test_what_is_said_becomes_what_to_do(output: str, code: str, words: str) -> None:
    """Each case is told from all others, and its sentence has the names that it needs."""
    found = explain(output)
    assert found is not None
    advice, sentence = found
    assert (advice.code, words in sentence) == (code, True), sentence
    assert not re.search(r"[{}]|\(\)|  ", sentence), sentence


def test_every_row_has_a_case() -> None:
    """A row that nothing was seen to match is a guess."""
    assert {code for _, code, _ in CASES} == {advice.code for advice in ADVICE}


def test_a_failure_tells_both() -> None:
    """Our sentence first, then theirs, without colours and frames; the reason for programs."""
    error = failure("terraform apply", "\x1b[31mmodule.x: Creating...\x1b[0m\n" + BUCKET_TAKEN)
    assert isinstance(error, MachineError)
    first, _, rest = error.message.partition("\n")
    assert first.startswith("`terraform apply` failed: another Google Cloud customer has a bucket")
    assert rest.startswith("It said:\nError: googleapi: Error 409")
    assert "│" not in error.message
    assert error.evidence == {"reason": "bucket_taken"}


def test_what_nobody_knows_is_shown_as_it_is() -> None:
    """Nothing is hidden, and nothing is made up."""
    error = failure("terraform plan", "a new kind of trouble")
    assert error.message.endswith("It said:\na new kind of trouble")
    assert error.evidence == {"reason": "unknown"}
    assert explain("Apply complete! Resources: 3 added, 0 changed, 0 destroyed.") is None


@given(output=st.text(max_size=300))
def test_any_output_is_read(output: str) -> None:
    """Whatever they print: a sentence without holes, or none."""
    found = explain(output)
    assert found is None or not re.search(r"\{\w+\}", found[1].replace(output, ""))
    assert "╷" not in plain(f"╷\n│ {output}\n╵").splitlines()[:1]
    failure("x", output)
