resource "google_service_account" "this" {
  for_each = var.accounts

  project      = var.project_id
  account_id   = "${var.prefix}-${each.key}"
  display_name = "${var.prefix} ${each.key}"
  description  = each.value.description
}

# Secrets without values: `gcloud secrets versions add` puts them in, so no state holds them.
resource "google_secret_manager_secret" "this" {
  for_each = var.secrets

  project   = var.project_id
  secret_id = "${var.prefix}-${each.key}"
  labels    = var.labels

  replication {
    dynamic "auto" {
      for_each = length(each.value.locations) == 0 ? [1] : []
      content {}
    }

    dynamic "user_managed" {
      for_each = length(each.value.locations) == 0 ? [] : [1]
      content {
        dynamic "replicas" {
          for_each = each.value.locations
          content {
            location = replicas.value
          }
        }
      }
    }
  }
}
