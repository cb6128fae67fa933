# Runs as it is with the real provider: terraform init && terraform test. Nothing is made, no account is needed.
mock_provider "google" {
  mock_data "google_storage_project_service_account" {
    defaults = { member = "serviceAccount:service-1@gs-project-accounts.iam.gserviceaccount.com" }
  }
}

variables {
  project_id = "maas-test"
  name       = "maas-test-models"
  location   = "europe-west1"
}

run "is_private_and_keeps_versions" {
  command = plan

  assert {
    condition     = google_storage_bucket.this.public_access_prevention == "enforced" && google_storage_bucket.this.uniform_bucket_level_access
    error_message = "The bucket can be opened to the public."
  }
  assert {
    condition     = google_storage_bucket.this.versioning[0].enabled && !google_storage_bucket.this.force_destroy
    error_message = "Models can be lost."
  }
  assert {
    condition     = length(google_storage_bucket_iam_member.this) == 0 && length(google_storage_bucket.this.encryption) == 0
    error_message = "Somebody was let in, or a key was set, without being asked for."
  }
}

run "lets_in_whom_it_is_told" {
  command = apply

  variables {
    iam = {
      readers  = { run = "serviceAccount:run@maas-test.iam.gserviceaccount.com" }
      creators = { log = "group:cloud-storage-analytics@google.com" }
      writers  = { team = "group:modellers@example.com" }
    }
    protection = { kms_key = "projects/p/locations/l/keyRings/r/cryptoKeys/k" }
  }

  assert {
    condition = { for key, grant in google_storage_bucket_iam_member.this : key => grant.role } == {
      reader-run = "roles/storage.objectViewer", creator-log = "roles/storage.objectCreator", writer-team = "roles/storage.objectUser"
    }
    error_message = "The roles are not the narrow ones."
  }
  assert {
    condition     = google_storage_bucket.this.encryption[0].default_kms_key_name == google_kms_crypto_key_iam_member.storage[0].crypto_key_id
    error_message = "Cloud Storage may not use the key."
  }
}

run "refuses_the_public" {
  command         = plan
  expect_failures = [var.iam]

  variables {
    iam = { readers = { everybody = "allUsers" } }
  }
}

run "refuses_names" {
  command         = plan
  expect_failures = [var.name]

  variables {
    name = "Models"
  }
}

run "refuses_retention_beside_versions" {
  command         = plan
  expect_failures = [var.protection]

  variables {
    protection = { retention_days = 30 }
  }
}
