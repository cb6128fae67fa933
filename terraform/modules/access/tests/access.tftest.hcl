# Runs as it is with the real provider: terraform init && terraform test. Nothing is made, no account is needed.
mock_provider "google" {
  mock_resource "google_service_account" {
    defaults = {
      email  = "digits-run@maas-test.iam.gserviceaccount.com"
      member = "serviceAccount:digits-run@maas-test.iam.gserviceaccount.com"
      name   = "projects/maas-test/serviceAccounts/digits-run@maas-test.iam.gserviceaccount.com"
    }
  }
}

variables {
  project_id = "maas-test"
  prefix     = "digits"
  accounts = {
    run = {
      description   = "Serves."
      project_roles = ["roles/logging.logWriter"]
      used_by       = { ci = "serviceAccount:ci@maas-test.iam.gserviceaccount.com" }
    }
    idle = { description = "Can do nothing." }
  }
  secrets = { key = { accounts = ["run"], locations = ["europe-west1"] } }
}

run "grants_what_is_named" {
  command = apply

  assert {
    condition     = [for grant in google_project_iam_member.this : grant.role] == ["roles/logging.logWriter"]
    error_message = "A role in the project was granted that nobody named."
  }
  assert {
    condition     = google_service_account_iam_member.user["run-ci"].role == "roles/iam.serviceAccountUser"
    error_message = "The deployer may do more, or less, than deploy as the account."
  }
  assert {
    condition     = google_secret_manager_secret_iam_member.reader["key-run"].secret_id == "digits-key"
    error_message = "The account does not read its secret."
  }
  assert {
    condition     = output.secret_ids == { key = "digits-key" }
    error_message = "The output has more than names."
  }
}

run "refuses_owners" {
  command         = plan
  expect_failures = [var.accounts]

  variables {
    accounts = { run = { description = "Too much.", project_roles = ["roles/owner"] } }
    secrets  = {}
  }
}

run "refuses_administrators" {
  command         = plan
  expect_failures = [var.accounts]

  variables {
    accounts = { run = { description = "Too much.", project_roles = ["roles/storage.objectAdmin"] } }
    secrets  = {}
  }
}

run "refuses_to_act_as_anybody" {
  command         = plan
  expect_failures = [var.accounts]

  variables {
    accounts = { run = { description = "Too much.", project_roles = ["roles/iam.serviceAccountTokenCreator"] } }
    secrets  = {}
  }
}

run "refuses_readers_that_are_not_there" {
  command         = plan
  expect_failures = [var.secrets]

  variables {
    secrets = { key = { accounts = ["other"] } }
  }
}
