resource "google_storage_bucket" "this" {
  #checkov:skip=CKV_GCP_62: access logs go where access_log_bucket says; a newcomer has no such bucket, and a log bucket would need one itself
  #checkov:skip=CKV_GCP_78: on unless protection.versioning is turned off, for buckets of what can be built again
  project       = var.project_id
  name          = var.name
  location      = var.location
  labels        = var.labels
  force_destroy = var.protection.force_destroy

  # Access by IAM alone, and never to the public.
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  versioning {
    enabled = var.protection.versioning
  }

  soft_delete_policy {
    retention_duration_seconds = var.protection.soft_delete_days * 86400
  }

  dynamic "retention_policy" {
    for_each = var.protection.retention_days == null ? [] : [var.protection.retention_days]
    content {
      retention_period = retention_policy.value * 86400
    }
  }

  # Versions that were replaced: the newest few are kept, and all of them for a while.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      days_since_noncurrent_time = var.expiry.noncurrent_days
      num_newer_versions         = var.expiry.noncurrent_versions
      with_state                 = "ARCHIVED"
    }
  }

  # Uploads that broke off take space and are seen by nobody.
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = var.expiry.upload_days
    }
  }

  dynamic "lifecycle_rule" {
    for_each = var.expiry.object_days == null ? [] : [var.expiry.object_days]
    content {
      action {
        type = "Delete"
      }
      condition {
        age = lifecycle_rule.value
      }
    }
  }

  dynamic "encryption" {
    for_each = var.protection.kms_key == null ? [] : [var.protection.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }

  dynamic "logging" {
    for_each = var.access_log_bucket == null ? [] : [var.access_log_bucket]
    content {
      log_bucket        = logging.value
      log_object_prefix = var.name
    }
  }

  # Cloud Storage refuses a key that its own account may not use.
  depends_on = [google_kms_crypto_key_iam_member.storage]
}
