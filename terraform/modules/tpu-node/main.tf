locals {
  parent = "projects/${var.project_id}/locations/${var.zone}"
}

resource "google_tpu_v2_vm" "this" {
  count    = var.queued ? 0 : 1
  provider = google-beta

  project          = var.project_id
  zone             = var.zone
  name             = var.name
  description      = "Serves models, or trains them."
  labels           = var.labels
  accelerator_type = var.accelerator.type
  runtime_version  = var.accelerator.runtime_version

  # startup-script is run as root at each boot: it starts the container.
  metadata = merge(
    { enable-oslogin = "TRUE" },
    var.startup_script == null ? {} : { startup-script = var.startup_script },
  )

  network_config {
    network             = var.network.network
    subnetwork          = var.network.subnetwork
    enable_external_ips = false
    can_ip_forward      = false
  }

  scheduling_config {
    spot     = var.accelerator.spot
    reserved = var.accelerator.reserved
  }

  service_account {
    email = var.service_account
    # What it may do is said by its roles.
    scope = ["https://www.googleapis.com/auth/cloud-platform"]
  }

  shielded_instance_config {
    enable_secure_boot = true
  }
}

# A request that waits until there is capacity. At this version of the provider it carries no account,
# metadata or scheduling, so the node runs as the zone's default.
resource "google_tpu_v2_queued_resource" "this" {
  count    = var.queued ? 1 : 0
  provider = google-beta

  project = var.project_id
  zone    = var.zone
  name    = var.name

  tpu {
    node_spec {
      parent  = local.parent
      node_id = var.name
      node {
        accelerator_type = var.accelerator.type
        runtime_version  = var.accelerator.runtime_version
        description      = "Serves models, or trains them."
        network_config {
          network             = var.network.network
          subnetwork          = var.network.subnetwork
          enable_external_ips = false
        }
      }
    }
  }
}
