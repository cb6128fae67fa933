resource "google_redis_instance" "this" {
  project            = var.project_id
  region             = var.region
  name               = var.name
  labels             = var.labels
  redis_version      = var.instance.redis_version
  tier               = var.instance.tier
  memory_size_gb     = var.instance.memory_gb
  authorized_network = var.network.id
  connect_mode       = var.network.connect_mode
  reserved_ip_range  = var.network.reserved_range

  # Limits are nobody's business: a password, and TLS.
  auth_enabled            = true
  transit_encryption_mode = "SERVER_AUTHENTICATION"

  redis_configs = {
    # Counters of windows that are over go first; a full store must not refuse new ones.
    maxmemory-policy = "volatile-ttl"
  }

  maintenance_policy {
    weekly_maintenance_window {
      day = var.maintenance.day
      start_time {
        hours   = var.maintenance.hour
        minutes = 0
        seconds = 0
        nanos   = 0
      }
    }
  }
}

# Where functions and services find the store: address and password in one value, read by those whom iam.tf lets.
resource "google_secret_manager_secret" "url" {
  project   = var.project_id
  secret_id = "${var.name}-${var.region}-url"
  labels    = var.labels

  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }
}

resource "google_secret_manager_secret_version" "url" {
  secret      = google_secret_manager_secret.url.id
  secret_data = "rediss://:${google_redis_instance.this.auth_string}@${google_redis_instance.this.host}:${google_redis_instance.this.port}/0"
}
