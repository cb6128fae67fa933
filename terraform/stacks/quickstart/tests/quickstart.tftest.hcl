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
  # Any file can stand for the zip where nothing is uploaded.
  source_zip = "main.tf"
}

run "a_project_id_is_enough" {
  command = apply

  assert {
    condition     = output.service_account == "digits-run@maas-test.iam.gserviceaccount.com"
    error_message = "The function runs as another account."
  }
  assert {
    condition     = startswith(output.source, "gs://maas-test-digits-sources/digits/")
    error_message = "The source is elsewhere."
  }
}

run "refuses_a_project_s_number" {
  command         = plan
  expect_failures = [var.project_id]

  variables {
    project_id = "123456789012"
  }
}

run "refuses_a_zone" {
  command         = plan
  expect_failures = [var.region]

  variables {
    region = "europe-west1-b"
  }
}

run "refuses_a_name_that_accounts_cannot_have" {
  command         = plan
  expect_failures = [var.name]

  variables {
    name = "a-model-with-a-very-long-name"
  }
}

run "reads_the_buckets_that_it_is_told_of" {
  command = plan

  variables {
    model_buckets = ["other-models", "maas-test-digits-models"]
  }

  assert {
    condition     = { for key, grant in google_storage_bucket_iam_member.models : key => grant.role } == { other-models = "roles/storage.objectViewer" }
    error_message = "It may read other buckets, write to them, or its own one has two grants."
  }
}

run "refuses_a_bucket_s_address" {
  command         = plan
  expect_failures = [var.model_buckets]

  variables {
    model_buckets = ["gs://other-models/store"]
  }
}
