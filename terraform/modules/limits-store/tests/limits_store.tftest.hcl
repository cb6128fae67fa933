# Runs as it is with the real provider: terraform init && terraform test. Nothing is made, no account is needed.
mock_provider "google" {
  mock_resource "google_redis_instance" {
    defaults = { host = "10.0.0.3", port = 6378, auth_string = "hush" }
  }
}

variables {
  project_id = "maas-test"
  region     = "europe-west1"
  name       = "digits-limits"
  network    = { id = "projects/maas-test/global/networks/main" }
}

run "has_a_password_and_tls" {
  command = apply

  variables {
    readers = { run = "serviceAccount:digits-run@maas-test.iam.gserviceaccount.com" }
  }

  assert {
    condition     = google_redis_instance.this.auth_enabled && google_redis_instance.this.transit_encryption_mode == "SERVER_AUTHENTICATION"
    error_message = "The store is open."
  }
  assert {
    condition     = nonsensitive(google_secret_manager_secret_version.url.secret_data) == "rediss://:hush@10.0.0.3:6378/0"
    error_message = "The secret is no address that a client takes."
  }
  assert {
    condition     = output.secret == "digits-limits-europe-west1-url" && output.address == "10.0.0.3:6378"
    error_message = "The outputs are not the names."
  }
}

run "refuses_a_network_by_its_short_name" {
  command         = plan
  expect_failures = [var.network]

  variables {
    network = { id = "main" }
  }
}

run "refuses_readers_who_are_everybody" {
  command         = plan
  expect_failures = [var.readers]

  variables {
    readers = { everybody = "allAuthenticatedUsers" }
  }
}
