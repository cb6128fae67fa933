locals {
  source_hash = filesha256(var.source_code.zip)
}

resource "google_storage_bucket_object" "source" {
  bucket       = var.source_code.bucket
  name         = "${var.name}/${local.source_hash}.zip"
  source       = var.source_code.zip
  content_type = "application/zip"

  lifecycle {
    # The running version's source stays until the next one has been deployed.
    create_before_destroy = true
    # Where the zip lay on the machine that uploaded it. The content is in the name, so an object never changes; the
    # provider would upload it anew under its name, and then delete what was there before: itself.
    ignore_changes = [source, detect_md5hash]
  }
}

resource "google_cloudfunctions2_function" "this" {
  project     = var.project_id
  location    = var.region
  name        = var.name
  description = "Predicts over files that arrive in ${var.input.bucket}."
  labels      = var.labels

  build_config {
    runtime         = var.source_code.runtime
    entry_point     = var.source_code.entry_point
    service_account = var.source_code.build_service_account

    source {
      storage_source {
        bucket = google_storage_bucket_object.source.bucket
        object = google_storage_bucket_object.source.name
      }
    }
  }

  service_config {
    service_account_email = var.service_account
    available_cpu         = var.instance.cpu
    available_memory      = var.instance.memory
    timeout_seconds       = var.instance.timeout_s
    max_instance_count    = var.instance.max
    # A file takes the whole instance; more files are more instances.
    max_instance_request_concurrency = 1
    all_traffic_on_latest_revision   = true
    ingress_settings                 = "ALLOW_INTERNAL_ONLY"

    environment_variables = merge({ MAAS_OUTPUT = var.output }, var.environment)
  }

  # Events repeat, and come again when the function fails: it must know what it has done.
  event_trigger {
    event_type            = "google.cloud.storage.object.v1.finalized"
    trigger_region        = var.input.location
    retry_policy          = var.retry ? "RETRY_POLICY_RETRY" : "RETRY_POLICY_DO_NOT_RETRY"
    service_account_email = var.service_account

    event_filters {
      attribute = "bucket"
      value     = var.input.bucket
    }
  }

  # Eventarc checks them while it makes the trigger.
  depends_on = [google_project_iam_member.receiver, google_project_iam_member.publisher]
}
