# Runs as it is with the real provider: terraform init && terraform test. Nothing is made, no account is needed.
mock_provider "google" {}

variables {
  project_id      = "maas-test"
  region          = "europe-west1"
  name            = "digits"
  image           = "europe-west1-docker.pkg.dev/maas-test/maas/digits:v2"
  service_account = "digits-run@maas-test.iam.gserviceaccount.com"
  release         = { revision = "v2" }
}

run "waits_for_the_model" {
  command = plan

  assert {
    condition     = google_cloud_run_v2_service.this.template[0].containers[0].startup_probe[0].http_get[0].path == "/v2/health/ready"
    error_message = "Traffic comes before the model."
  }
  assert {
    condition     = google_cloud_run_v2_service.this.template[0].containers[0].resources[0].startup_cpu_boost && google_cloud_run_v2_service.this.deletion_protection
    error_message = "The start is not boosted, or the service not protected."
  }
  assert {
    condition     = [for target in google_cloud_run_v2_service.this.traffic : [target.type, target.percent]] == [["TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", 100]]
    error_message = "A service without a canary gives all to the latest revision."
  }
}

run "splits_for_a_canary" {
  command = plan

  variables {
    release = { revision = "v2", stable = "v1", canary_percent = 0 }
  }

  assert {
    condition     = { for target in google_cloud_run_v2_service.this.traffic : target.tag => target.percent } == { canary = 0, stable = 100 }
    error_message = "The split is not what was asked for."
  }
  assert {
    condition     = google_cloud_run_v2_service.this.traffic[0].revision == "digits-v1" && google_cloud_run_v2_service.this.traffic[1].type == "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST"
    error_message = "Another revision is taken for the good one, or the canary is named before it is there."
  }
  assert {
    condition     = output.traffic == tomap({ v1 = 100, v2 = 0 })
    error_message = "The output tells another split."
  }
}

run "gives_all_to_a_canary_that_proved_itself" {
  command = plan

  variables {
    release = { revision = "v2", stable = "v1", canary_percent = 100 }
  }

  assert {
    condition     = output.traffic == tomap({ v2 = 100 }) && length(google_cloud_run_v2_service.this.traffic) == 1
    error_message = "The old revision still has traffic."
  }
}

run "keeps_the_cpu_beside_a_gpu" {
  command = plan

  variables {
    instance = { cpu = "4", memory = "16Gi" }
    gpu      = {}
  }

  assert {
    condition     = google_cloud_run_v2_service.this.template[0].containers[0].resources[0].limits["nvidia.com/gpu"] == "1" && !google_cloud_run_v2_service.this.template[0].containers[0].resources[0].cpu_idle
    error_message = "The GPU is missing, or its CPU is taken away."
  }
  assert {
    condition     = google_cloud_run_v2_service.this.template[0].node_selector[0].accelerator == "nvidia-l4"
    error_message = "It is another GPU."
  }
}

run "refuses_a_gpu_on_a_small_instance" {
  command         = plan
  expect_failures = [var.gpu]

  variables {
    gpu = {}
  }
}

run "refuses_a_canary_without_a_stable" {
  command         = plan
  expect_failures = [var.release]

  variables {
    release = { revision = "v2", canary_percent = 10 }
  }
}

run "refuses_latest" {
  command         = plan
  expect_failures = [var.image]

  variables {
    image = "europe-west1-docker.pkg.dev/maas-test/maas/digits:latest"
  }
}

run "refuses_more_memory_than_its_cpus_take" {
  command         = plan
  expect_failures = [var.instance]

  variables {
    instance = { cpu = "2", memory = "9Gi" }
  }
}
