"""Advice for errors of Terraform and gcloud: their meaning and the next step.

One table: a pattern of the tool's output, its meaning, the next step. Pure, so that it is tested on
real outputs without an account. The rule: the first row that matches counts, so special ones come
before general ones; nothing is hidden, the tool's own output follows the sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from maas_sdk.errors import MachineError

__all__ = ["ADVICE", "Advice", "explain", "failure", "plain"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """A row of the table.

    Attributes:
        code: short name of the case, stable, for programs.
        pattern: of the foreign words; its named groups fill in the two sentences.
        meaning: what went wrong.
        remedy: what to do, with the exact command where there is one.
    """

    code: str
    pattern: str
    meaning: str
    remedy: str


def _row(code: str, pattern: str, meaning: str, remedy: str) -> Advice:
    return Advice(code=code, pattern=pattern, meaning=meaning, remedy=remedy)


# storage.buckets.create
_PERMISSION: Final = r"[a-z]\w*\.[\w.]+"

ADVICE: Final = (
    _row(
        "credentials_missing",
        r"could not find default credentials|No credentials loaded"
        r"|do not currently have an active account|Your default credentials were not found",
        "nobody is logged in to Google Cloud on this machine",
        "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a "
        "key file",
    ),
    _row(
        "credentials_expired",
        r"Reauthentication (?:failed|required|is needed)|invalid_grant|rapt_required"
        r"|Token has been expired or revoked|oauth2: cannot fetch token|Invalid Credentials",
        "the login to Google Cloud is no longer valid",
        "run `gcloud auth application-default login` again",
    ),
    _row(
        "api_disabled",
        r"(?P<api>[A-Z][\w ().-]*? API) has not been used in project (?P<project>\S+) before or it "
        r"is disabled(?:.*?/api/(?P<service>[a-z0-9.-]+\.googleapis\.com))?",
        "the {api} is not enabled in project {project}",
        "run `gcloud services enable {service} --project {project}`, wait a minute, and try again",
    ),
    _row(
        "billing",
        r"billing account for the owning project is disabled|absent billing account"
        r"|[Bb]illing account for project \S+ is not (?:found|open)|accountDisabled"
        r"|requires billing to be enabled|BILLING_DISABLED",
        "the project has no billing account that pays for it",
        "link one: https://console.cloud.google.com/billing/linkedaccount; nothing of this scale "
        "costs anything while nobody calls, but Google asks for an account",
    ),
    _row(
        "project_wrong",
        r"Unknown project id:? ?'?(?P<project>[\w:.-]*)"
        r"|[Pp]roject '?(?:projects/)?(?P<project2>[\w:.-]+)'? (?:was )?not found"
        r"|The resource '?projects/(?P<project3>[\w:.-]+)'? was not found"
        r"|(?:required )?permission to use project (?P<project4>[\w:.-]+)|USER_PROJECT_DENIED"
        r"|project property is set to the empty string|CONSUMER_INVALID",
        "there is no project {project}, or this account may not use it",
        "`gcloud projects list` shows those that it may; --project takes the PROJECT_ID, not the "
        "name or the number",
    ),
    _row(
        # Before "permission", which fits this too: Google answers 403 for a region that does not
        # exist.
        "region_wrong",
        r"denied on 'locations/(?P<region>[\w-]+)' \(or it may not exist\)"
        r"|(?:location|region) '?(?P<region2>[\w-]+)'? (?:is not (?:valid|supported)|not found)"
        r"|[Ii]nvalid (?:location|region)",
        "there is no region {region} for functions, or it is not open to this project",
        "choose another with --region: `gcloud functions regions list` shows them",
    ),
    _row(
        # A permission as well; here the role that grants it is known.
        "act_as",
        r"iam\.service[aA]ccounts\.actAs",
        "this account may not deploy something that runs as the function's service account",
        "have an owner of the project grant it roles/iam.serviceAccountUser",
    ),
    _row(
        "member_unknown",
        r"Error 400: (?P<member>(?:User|Group|Service account|Domain) \S+) does not exist",
        "{member} does not exist",
        "check what --invoker names: an address that Google knows, after user:, group:, "
        "serviceAccount: or domain:",
    ),
    _row(
        "policy",
        r"(?:violates constraint )?'?(?P<constraint>constraints/[\w.]+)"
        r"|do not belong to a permitted customer|orgpolicy|violates constraint",
        "the organisation forbids it by a policy ({constraint})",
        "leave out --public if callers are to be known accounts; otherwise an administrator of the "
        "organisation has to allow it for this project",
    ),
    _row(
        "bucket_taken",
        r"requested bucket name is not available|BucketNameUnavailable",
        "another Google Cloud customer has a bucket of this name; the names are shared by all",
        "choose another --name: buckets are named after project and name",
    ),
    _row(
        "name_taken",
        r"Error 409:.*?(?:already (?:exists|own)|alreadyExists)|ALREADY_EXISTS"
        r"|[Rr]esource '[^']*' already exists",
        "something of this name is in the project already, and was not made by this deployment",
        "choose another --name, or work in the folder (--workspace) that it was deployed from: its "
        "state is there; or take it over with `terraform import`",
    ),
    _row(
        "instances_quota",
        r"maxScale may not exceed (?P<limit>\d+)",
        "the project may have {limit} instances of this size in the region at most",
        "say --max-instances {limit}, or ask for more at https://cloud.google.com/run/quotas",
    ),
    _row(
        "quota",
        r"Quota exceeded for (?:quota )?(?:metric|group)? ?'?(?P<quota>[^'\n,.]+)"
        r"|Quota '?(?P<quota2>[\w-]+)'? exceeded|quotaExceeded|rateLimitExceeded"
        r"|RESOURCE_EXHAUSTED|exceeded (?:your )?(?:current )?quota",
        "a quota of the project is used up ({quota})",
        "wait if it is a rate (per minute), else ask for more at "
        "https://console.cloud.google.com/iam-admin/quotas, or use another --region",
    ),
    _row(
        "too_large",
        r"(?:[Rr]equest|[Ss]ource|[Aa]rchive|[Dd]eployment|[Cc]ode|payload|[Ii]mage)[^\n]{0,80}"
        r"(?:too large|exceed(?:s|ed)[^\n]{0,40}(?:size|limit|maximum))|Request Entity Too Large"
        r"|size limit exceeded",
        "the function's source is larger than the platform takes",
        "publish the bundle in a store and let the function fetch it (--bundle-from "
        "gs://BUCKET/STORE/MODEL@VERSION), or make a container (maas package --container)",
    ),
    _row(
        # Cloud Build says "Build failed" around these causes, so they come before "build_failed".
        "hash_mismatch",
        r"DO NOT MATCH THE HASHES|hashes are required in --require-hashes mode",
        "the builder was given another file than the one that was locked",
        "nothing was deployed; if it stays so, your package index serves changed files: ask who "
        "runs it",
    ),
    _row(
        "memory",
        r"[Mm]emory limit of (?P<limit>\d+ ?\w+) exceeded|OOMKilled",
        "the function ran out of its memory ({limit}) while it started",
        "give it more: --memory 2Gi",
    ),
    _row(
        "start_failed",
        r"container failed to start and listen on the port|HealthCheckContainerError"
        r"|failed to start and then listen|Container Healthcheck failed",
        "the function was built, but did not start",
        "`maas package BUNDLE out.zip --check` starts the same zip here; its log in the cloud: "
        "`gcloud functions logs read NAME --gen2 --region REGION`",
    ),
    _row(
        "build_failed",
        r"Build failed",
        "Cloud Build could not build the function",
        "the line after `Build failed` says why; the whole log is at the address beside it",
    ),
    _row(
        "bucket_not_empty",
        r"(?:delete|destroy)[^\n]{0,40}bucket[^\n]{0,120}without [`'\"]?force_destroy"
        r"|bucket you tried to delete is not empty|BucketNotEmpty",
        "the bucket still holds models, and is not deleted with them",
        "copy what you need, then say `maas destroy --with-models`",
    ),
    _row(
        "permission",
        # What is missing is named somewhere after the 403, or alone, or not at all.
        r"(?:Error 403: .*?|PERMISSION_DENIED.*?)?"
        rf"(?:[Pp]ermission '?(?P<permission>{_PERMISSION})'? (?:is )?(?:denied|missing)"
        rf"|does not have (?P<permission2>{_PERMISSION}) access)"
        r"|Error 403: |PERMISSION_DENIED|The caller does not have permission",
        "this account lacks a permission in the project ({permission})",
        "have an owner of the project grant it; terraform/README.md lists the roles that a deploy "
        "needs. `gcloud auth list` shows which account it is",
    ),
    _row(
        "state_locked",
        r"Error acquiring the state lock",
        "somebody else is deploying from the same state, or died while doing so",
        "wait; if nobody is: `terraform force-unlock ID`, with the ID below",
    ),
    _row(
        "state_bucket",
        r"storage: bucket doesn't exist|querying Cloud Storage failed[^\n]*(?:404|notFound)",
        "there is no bucket of this name for Terraform's state, or none was named",
        "make one: `gcloud storage buckets create gs://BUCKET --project PROJECT --location REGION "
        "--uniform-bucket-level-access`, and say it with --state-bucket",
    ),
    _row(
        # Before "network", which fits too: the registry is another host than Google's.
        "no_provider",
        r"Failed to query available provider packages|Failed to install provider"
        r"|Could not retrieve the list of available versions"
        r"|registry\.terraform\.io[^\n]*(?:no such host|timeout|refused)"
        r"|Missing required provider|Required plugins are not installed",
        "Terraform could not fetch its provider for Google Cloud",
        "check the network: Terraform asks registry.terraform.io once; behind a proxy set "
        "HTTPS_PROXY",
    ),
    _row(
        "terraform_old",
        r"Unsupported Terraform Core version",
        "the terraform on this machine is older than the modules ask for",
        "install a newer one: https://developer.hashicorp.com/terraform/install",
    ),
    _row(
        "variable",
        r"Invalid value for variable|No value for required variable"
        r"|Invalid value for input variable",
        "a setting is not one that the stack takes",
        "the lines below name it and say what is expected",
    ),
    _row(
        "network",
        r"no such host|connection refused|i/o timeout|TLS handshake timeout|network is unreachable"
        r"|connection reset by peer",
        "Google Cloud could not be reached",
        "check the network and run the same command again: what was done is not done twice",
    ),
)

_UNKNOWN: Final = "it gave no reason that is known here"
_ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")
# Terraform frames its errors: ╷ │ ╵.
_FRAME: Final = re.compile(r"^[╷╵│ \t]+", re.MULTILINE)


def plain(output: str) -> str:
    """Return foreign output without colours and frames."""
    return _FRAME.sub("", _ANSI.sub("", output)).strip()


def explain(output: str) -> tuple[Advice, str] | None:
    """Return the row that fits an output, and its sentence: the meaning and the next step.

    Lines are joined first, since Terraform breaks them wherever a line is full.
    """
    words = " ".join(plain(output).split())
    for advice in ADVICE:
        if found := re.search(advice.pattern, words):
            return advice, _fill(f"{advice.meaning}: {advice.remedy}", found)
    return None


def failure(command: str, output: str) -> MachineError:
    """Return the error for a failed command: advice first, then the command's own words.

    Args:
        command: as the user could type it.
        output: what it printed.

    Returns:
        An error whose evidence has ``reason``: the advice's code, or "unknown".
    """
    found = explain(output)
    words = _errors_of(plain(output))
    sentence = found[1] if found else _UNKNOWN
    said = f"\nIt said:\n{words}" if words else ""
    return MachineError(
        f"`{command}` failed: {sentence}{said}", reason=found[0].code if found else "unknown"
    )


def _fill(sentence: str, found: re.Match[str]) -> str:
    """Fill holes from a pattern's groups; one without a value is dropped with its brackets."""
    values: dict[str, str] = {}
    for name, value in found.groupdict().items():
        if value:
            # Alternatives of a pattern cannot share a name: region, region2 …
            values.setdefault(name.rstrip("0123456789"), value.strip())

    def filled(hole: re.Match[str]) -> str:
        name = hole[1] or hole[2]
        return hole[0].replace(f"{{{name}}}", values[name]) if name in values else ""

    return re.sub(r" ?\(\{(\w+)\}\)| ?\{(\w+)\}", filled, sentence)


def _errors_of(words: str, limit: int = 2000) -> str:
    """Return the output from the first error on; else the last lines."""
    # What comes before the first error is progress, which was shown as it came.
    at = re.search(r"^(?:Error|ERROR)\b", words, re.MULTILINE)
    return words[at.start() :][:limit] if at else words[-limit:]
