# Runs as it is with the real provider: terraform init && terraform test. Nothing is made, no account is needed.
mock_provider "google" {}

variables {
  project_id      = "maas-test"
  region          = "europe-west1"
  name            = "digits"
  service_account = "digits-run@maas-test.iam.gserviceaccount.com"
  # Any file can stand for the zip where nothing is uploaded.
  source_code = { zip = "main.tf", bucket = "maas-test-sources" }
}

run "serves_as_many_as_it_has_threads" {
  command = plan

  assert {
    condition     = google_cloudfunctions2_function.this.service_config[0].environment_variables["THREADS"] == tostring(google_cloudfunctions2_function.this.service_config[0].max_instance_request_concurrency)
    error_message = "Requests would wait for a thread."
  }
  assert {
    condition     = google_cloudfunctions2_function.this.service_config[0].ingress_settings == "ALLOW_INTERNAL_AND_GCLB" && length(google_cloud_run_v2_service_iam_member.invoker) == 0
    error_message = "It is open to somebody without being asked to."
  }
  assert {
    condition     = google_storage_bucket_object.source.name == "digits/${filesha256("main.tf")}.zip"
    error_message = "The object is not named by its content."
  }
}

run "opens_when_told" {
  command = plan

  variables {
    invokers    = { public = true, members = { web = "user:a@example.com" } }
    environment = { THREADS = "8" }
    secrets     = { KEY = { secret = "key" } }
  }

  assert {
    condition     = { for key, grant in google_cloud_run_v2_service_iam_member.invoker : key => grant.member } == { public = "allUsers", web = "user:a@example.com" }
    error_message = "Callers are not those who were named."
  }
  assert {
    condition     = google_cloudfunctions2_function.this.service_config[0].environment_variables["THREADS"] == "8"
    error_message = "The environment does not go before the default."
  }
  assert {
    condition     = google_cloudfunctions2_function.this.service_config[0].secret_environment_variables[0].version == "latest"
    error_message = "The secret has no version."
  }
}

run "refuses_secrets_in_the_environment" {
  command         = plan
  expect_failures = [var.environment]

  variables {
    environment = { API_TOKEN = "abc" }
  }
}

run "refuses_a_zip_that_is_not_there" {
  command         = plan
  expect_failures = [var.source_code]

  variables {
    source_code = { zip = "missing.zip", bucket = "b" }
  }
}

run "refuses_many_requests_on_half_a_cpu" {
  command         = plan
  expect_failures = [var.instance]

  variables {
    instance = { cpu = "0.5", concurrency = 8 }
  }
}

run "refuses_the_default_account" {
  command         = plan
  expect_failures = [var.service_account]

  variables {
    service_account = "123-compute@developer.gserviceaccount.com"
  }
}

run "refuses_all_users_by_the_back_door" {
  command         = plan
  expect_failures = [var.invokers]

  variables {
    invokers = { members = { web = "allUsers" } }
  }
}

run "refuses_more_memory_than_its_cpus_take" {
  command         = plan
  expect_failures = [var.instance]

  variables {
    instance = { cpu = "2", memory = "9Gi" }
  }
}

run "takes_a_fraction_of_a_cpu_with_what_goes_with_it" {
  command = plan

  variables {
    instance = { cpu = "0.5", memory = "1Gi", concurrency = 1 }
  }

  assert {
    condition     = google_cloudfunctions2_function.this.service_config[0].available_memory == "1Gi"
    error_message = "The memory is another one."
  }
}

run "refuses_more_memory_than_a_fraction_takes" {
  command         = plan
  expect_failures = [var.instance]

  variables {
    instance = { cpu = "0.5", memory = "1025Mi", concurrency = 1 }
  }
}

run "refuses_less_memory_than_many_cpus_want" {
  command         = plan
  expect_failures = [var.instance]

  variables {
    instance = { cpu = "8", memory = "2Gi" }
  }
}

run "refuses_more_memory_than_there_is" {
  command         = plan
  expect_failures = [var.instance]

  variables {
    instance = { cpu = "8", memory = "33Gi" }
  }
}

run "refuses_cpus_that_there_are_not" {
  command         = plan
  expect_failures = [var.instance]

  variables {
    instance = { cpu = "3" }
  }
}

run "refuses_what_the_platform_sets" {
  command         = plan
  expect_failures = [var.environment]

  variables {
    environment = { K_SERVICE = "digits" }
  }
}

run "refuses_names_that_no_shell_takes" {
  command         = plan
  expect_failures = [var.environment]

  variables {
    environment = { "A-B" = "1" }
  }
}

run "refuses_an_address_without_its_kind" {
  command         = plan
  expect_failures = [var.invokers]

  variables {
    invokers = { members = { web = "you@example.com" } }
  }
}
