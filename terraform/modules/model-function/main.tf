locals {
  source_hash = filesha256(var.source_code.zip)
}

# Named by its content: another zip is another object, and that is what makes the function deploy anew.
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
  #checkov:skip=CKV_GCP_124: internal unless network.ingress opens it, as quickstart does for a laptop; IAM decides on callers in any case
  project     = var.project_id
  location    = var.region
  name        = var.name
  description = var.description
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
    service_account_email            = var.service_account
    available_cpu                    = var.instance.cpu
    available_memory                 = var.instance.memory
    timeout_seconds                  = var.instance.timeout_s
    min_instance_count               = var.instance.min
    max_instance_count               = var.instance.max
    max_instance_request_concurrency = var.instance.concurrency
    all_traffic_on_latest_revision   = true
    ingress_settings                 = var.network.ingress
    vpc_connector                    = var.network.connector
    vpc_connector_egress_settings    = var.network.connector == null ? null : var.network.egress

    # functions-framework has four threads per CPU otherwise; a request beyond them would wait unseen.
    environment_variables = merge({ THREADS = tostring(var.instance.concurrency) }, var.environment)

    dynamic "secret_environment_variables" {
      for_each = var.secrets
      content {
        key        = secret_environment_variables.key
        project_id = var.project_id
        secret     = secret_environment_variables.value.secret
        version    = secret_environment_variables.value.version
      }
    }
  }
}
