# Runs as it is with the real provider: terraform init && terraform test. Nothing is made, no account is needed.
mock_provider "google" {
  mock_data "google_storage_project_service_account" {
    defaults = { member = "serviceAccount:service-1@gs-project-accounts.iam.gserviceaccount.com" }
  }
}

variables {
  project_id      = "maas-test"
  region          = "europe-west1"
  name            = "digits-batch"
  service_account = "digits-batch@maas-test.iam.gserviceaccount.com"
  # Any file can stand for the zip where nothing is uploaded.
  source_code = { zip = "main.tf", bucket = "maas-test-sources" }
  input       = { bucket = "maas-test-inputs", location = "eu" }
  output      = "gs://maas-test-results/digits"
}

run "is_called_for_finished_objects" {
  command = plan

  assert {
    condition     = google_cloudfunctions2_function.this.event_trigger[0].event_type == "google.cloud.storage.object.v1.finalized" && google_cloudfunctions2_function.this.event_trigger[0].trigger_region == "eu"
    error_message = "The trigger is another one."
  }
  assert {
    condition     = [for filter in google_cloudfunctions2_function.this.event_trigger[0].event_filters : filter.value] == ["maas-test-inputs"]
    error_message = "It is called for other buckets."
  }
  assert {
    condition     = google_storage_bucket_iam_member.writer.bucket == "maas-test-results" && google_storage_bucket_iam_member.reader.role == "roles/storage.objectViewer"
    error_message = "It cannot write results, or may change inputs."
  }
}

run "refuses_to_feed_itself" {
  command         = plan
  expect_failures = [var.output]

  variables {
    output = "gs://maas-test-inputs/results"
  }
}

run "refuses_more_time_than_there_is" {
  command         = plan
  expect_failures = [var.instance]

  variables {
    instance = { timeout_s = 3600 }
  }
}

run "refuses_more_memory_than_its_cpus_take" {
  command         = plan
  expect_failures = [var.instance]

  variables {
    instance = { cpu = "2", memory = "9Gi" }
  }
}
