locals {
  # Cloud Run has the metrics, of functions too.
  ours     = "resource.type = \"cloud_run_revision\" AND resource.labels.service_name = one_of(${join(", ", [for service in sort(var.services) : "\"${service}\""])})"
  channels = [for channel in google_monitoring_notification_channel.email : channel.name]
  requests = "metric.type = \"run.googleapis.com/request_count\" AND ${local.ours}"
  loads    = "metric.type = \"logging.googleapis.com/user/${google_logging_metric.load.name}\" AND resource.type = \"cloud_run_revision\""
}

resource "google_monitoring_notification_channel" "email" {
  for_each = var.emails

  project      = var.project_id
  display_name = "${var.name} ${each.key}"
  type         = "email"
  labels       = { email_address = each.value }
}

# Each load of a model is one line of the log: seconds, and the tier that it was taken from. A load is a cold start.
resource "google_logging_metric" "load" {
  project     = var.project_id
  name        = "${var.name}-model-load"
  description = "Seconds that loading a model took, by tier."

  filter          = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=(${join(" OR ", [for service in sort(var.services) : "\"${service}\""])}) AND jsonPayload.tier:*"
  value_extractor = "EXTRACT(jsonPayload.seconds)"
  label_extractors = {
    tier = "EXTRACT(jsonPayload.tier)"
  }

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
    unit        = "s"
    labels {
      key         = "tier"
      value_type  = "STRING"
      description = "executable: compiled ahead of time; program: compiled at this start."
    }
  }

  # 1 ms to 65 s.
  bucket_options {
    exponential_buckets {
      growth_factor      = 2
      num_finite_buckets = 16
      scale              = 0.001
    }
  }
}
