# Runs as it is with the real provider: terraform init -backend=false && terraform test. Nothing is made, no
# account is needed.
mock_provider "google" {
  mock_resource "google_service_account" {
    defaults = {
      email  = "digits-run@maas-test.iam.gserviceaccount.com"
      member = "serviceAccount:digits-run@maas-test.iam.gserviceaccount.com"
      name   = "projects/maas-test/serviceAccounts/digits-run@maas-test.iam.gserviceaccount.com"
    }
  }
  mock_data "google_storage_project_service_account" {
    defaults = { member = "serviceAccount:service-1@gs-project-accounts.iam.gserviceaccount.com" }
  }
}

mock_provider "google-beta" {}

variables {
  project_id = "maas-test"
  name       = "digits"
  # Any file can stand for the zips where nothing is uploaded.
  source_zip = "main.tf"
  batch      = { source_zip = "main.tf" }
  image      = "europe-docker.pkg.dev/maas-test/maas/digits:v2"
  release    = { revision = "v2", stable = "v1", canary_percent = 5 }
  network_id = "projects/maas-test/global/networks/main"
  regions = {
    europe-west1 = {
      subnetwork = "projects/maas-test/regions/europe-west1/subnetworks/main"
      connector  = "projects/maas-test/locations/europe-west1/connectors/main"
    }
    us-central1 = {
      subnetwork = "projects/maas-test/regions/us-central1/subnetworks/main"
      connector  = "projects/maas-test/locations/us-central1/connectors/main"
    }
  }
}

run "is_in_both_regions_with_a_canary" {
  command = apply

  assert {
    condition     = keys(output.services) == ["europe-west1", "us-central1"] && keys(output.functions) == keys(output.services)
    error_message = "A region is missing."
  }
  assert {
    condition     = output.traffic == tomap({ v1 = 95, v2 = 5 })
    error_message = "The canary gets another share."
  }
  assert {
    condition     = length(module.limits) == 0 && length([for name in keys(output.secrets) : name if startswith(name, "limits-")]) == 0
    error_message = "A Redis is made that nobody asked for."
  }
  assert {
    condition     = length(local.limits_secrets["us-central1"]) == 0 && !contains(local.apis, "redis")
    error_message = "A service depends on a Redis that is not there."
  }
}

run "makes_limits_where_they_are_asked_for" {
  command = apply

  variables {
    limits = {}
  }

  assert {
    condition     = output.secrets["limits-us-central1"] == "digits-limits-us-central1-url" && length(module.limits) == 2
    error_message = "The limits of a region are missing."
  }
  assert {
    condition     = local.limits_secrets["us-central1"]["MAAS_LIMITS_URL"].secret == "digits-limits-us-central1-url"
    error_message = "A service is not told of its region's limits."
  }
}

run "refuses_one_region" {
  command         = plan
  expect_failures = [var.regions]

  variables {
    regions = {
      europe-west1 = {
        subnetwork = "projects/maas-test/regions/europe-west1/subnetworks/main"
        connector  = "projects/maas-test/locations/europe-west1/connectors/main"
      }
    }
  }
}
