locals {
  # A canary is a newer revision beside the one that is known to be good.
  split = var.release.stable != null && var.release.stable != var.release.revision && var.release.canary_percent < 100
}

resource "google_cloud_run_v2_service" "this" {
  project             = var.project_id
  location            = var.region
  name                = var.name
  labels              = var.labels
  ingress             = var.network.ingress
  deletion_protection = var.deletion_protection

  template {
    revision                         = "${var.name}-${var.release.revision}"
    service_account                  = var.service_account
    timeout                          = "${var.instance.timeout_s}s"
    max_instance_request_concurrency = var.instance.concurrency
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    gpu_zonal_redundancy_disabled    = var.gpu == null ? null : !var.gpu.zonal_redundancy

    scaling {
      min_instance_count = var.instance.min
      max_instance_count = var.instance.max
    }

    dynamic "node_selector" {
      for_each = var.gpu == null ? [] : [var.gpu.type]
      content {
        accelerator = node_selector.value
      }
    }

    dynamic "vpc_access" {
      for_each = var.network.subnetwork == null ? [] : [var.network]
      content {
        egress = vpc_access.value.egress
        network_interfaces {
          network    = vpc_access.value.network
          subnetwork = vpc_access.value.subnetwork
        }
      }
    }

    containers {
      image = var.image

      ports {
        container_port = var.port
      }

      resources {
        limits = merge(
          { cpu = var.instance.cpu, memory = var.instance.memory },
          var.gpu == null ? {} : { "nvidia.com/gpu" = tostring(var.gpu.count) },
        )
        startup_cpu_boost = var.instance.startup_cpu_boost
        # A GPU is kept while the instance lives, and so is the CPU that feeds it.
        cpu_idle = var.gpu == null ? var.instance.cpu_idle : false
      }

      # The port is open before the model is there, so the platform asks for the model.
      startup_probe {
        period_seconds    = 1
        timeout_seconds   = 1
        failure_threshold = var.instance.startup_s
        http_get {
          path = "/v2/health/ready"
          port = var.port
        }
      }

      liveness_probe {
        period_seconds    = 10
        timeout_seconds   = 5
        failure_threshold = 3
        http_get {
          path = "/v2/health/live"
          port = var.port
        }
      }

      dynamic "env" {
        for_each = var.environment
        content {
          name  = env.key
          value = env.value
        }
      }

      dynamic "env" {
        for_each = var.secrets
        content {
          name = env.key
          value_source {
            secret_key_ref {
              secret  = env.value.secret
              version = env.value.version
            }
          }
        }
      }
    }
  }

  dynamic "traffic" {
    for_each = local.split ? [] : [1]
    content {
      type    = "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST"
      percent = 100
    }
  }

  dynamic "traffic" {
    for_each = local.split ? [1] : []
    content {
      type     = "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"
      revision = "${var.name}-${var.release.stable}"
      percent  = 100 - var.release.canary_percent
      tag      = "stable"
    }
  }

  # Said as the latest and not by name: the revision is only there once this very apply has made it. Under its tag
  # it has an address of its own, so it can be called before it gets any traffic.
  dynamic "traffic" {
    for_each = local.split ? [1] : []
    content {
      type    = "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST"
      percent = var.release.canary_percent
      tag     = "canary"
    }
  }
}
