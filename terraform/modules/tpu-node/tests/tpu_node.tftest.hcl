# Runs as it is with the real provider: terraform init && terraform test. Nothing is made, no account is needed.
mock_provider "google-beta" {}

variables {
  project_id = "maas-test"
  zone       = "us-central1-a"
  name       = "digits-v5e"
}

run "is_private" {
  command = plan

  assert {
    condition     = length(google_tpu_v2_vm.this) == 1 && length(google_tpu_v2_queued_resource.this) == 0
    error_message = "It is queued without being asked to."
  }
  assert {
    condition     = !google_tpu_v2_vm.this[0].network_config[0].enable_external_ips && google_tpu_v2_vm.this[0].shielded_instance_config[0].enable_secure_boot
    error_message = "The node is reached from outside, or boots anything."
  }
}

run "queues_when_told" {
  command = plan

  variables {
    queued      = true
    accelerator = { type = "v6e-8", runtime_version = "v2-alpha-tpuv6e" }
  }

  assert {
    condition     = length(google_tpu_v2_vm.this) == 0 && google_tpu_v2_queued_resource.this[0].tpu[0].node_spec[0].node[0].accelerator_type == "v6e-8"
    error_message = "The request is another one."
  }
}

run "refuses_a_region" {
  command         = plan
  expect_failures = [var.zone]

  variables {
    zone = "us-central1"
  }
}

run "refuses_to_queue_a_script" {
  command         = plan
  expect_failures = [var.queued]

  variables {
    queued         = true
    startup_script = "true"
  }
}

run "refuses_spot_and_reserved" {
  command         = plan
  expect_failures = [var.accelerator]

  variables {
    accelerator = { spot = true, reserved = true }
  }
}
