resource "google_monitoring_alert_policy" "errors" {
  project               = var.project_id
  display_name          = "${var.name}: errors"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = local.channels
  user_labels           = var.labels

  conditions {
    display_name = "More than ${var.alerts.error_percent} % of requests end with 5xx"
    condition_threshold {
      filter             = "${local.requests} AND metric.labels.response_code_class = \"5xx\""
      denominator_filter = local.requests
      comparison         = "COMPARISON_GT"
      threshold_value    = var.alerts.error_percent / 100
      duration           = "${var.alerts.for_s}s"

      aggregations {
        alignment_period     = "60s"
        per_series_aligner   = "ALIGN_RATE"
        cross_series_reducer = "REDUCE_SUM"
        group_by_fields      = ["resource.label.service_name", "resource.label.location"]
      }
      denominator_aggregations {
        alignment_period     = "60s"
        per_series_aligner   = "ALIGN_RATE"
        cross_series_reducer = "REDUCE_SUM"
        group_by_fields      = ["resource.label.service_name", "resource.label.location"]
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "The log has the reason, at severity ERROR. `bundle_incompatible` and `bundle_corrupt`: go back to the version before. `not_ready`: loading takes too long or fails."
  }
}

resource "google_monitoring_alert_policy" "latency" {
  project               = var.project_id
  display_name          = "${var.name}: latency"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = local.channels
  user_labels           = var.labels

  conditions {
    display_name = "p99 is over ${var.alerts.p99_ms} ms"
    condition_threshold {
      filter          = "metric.type = \"run.googleapis.com/request_latencies\" AND ${local.ours}"
      comparison      = "COMPARISON_GT"
      threshold_value = var.alerts.p99_ms
      duration        = "${var.alerts.for_s}s"

      aggregations {
        alignment_period     = "60s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_PERCENTILE_99"
        group_by_fields      = ["resource.label.service_name", "resource.label.location"]
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "Many instances at their maximum, or a concurrency that is too high for the CPUs, make requests wait."
  }
}

resource "google_monitoring_alert_policy" "cold_starts" {
  project               = var.project_id
  display_name          = "${var.name}: cold starts"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = local.channels
  user_labels           = var.labels

  conditions {
    display_name = "Loading a model takes over ${var.alerts.load_s} s"
    condition_threshold {
      filter          = local.loads
      comparison      = "COMPARISON_GT"
      threshold_value = var.alerts.load_s
      duration        = "0s"

      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_PERCENTILE_95"
        group_by_fields      = ["resource.label.service_name", "resource.label.location"]
      }
    }
  }

  conditions {
    display_name = "A model was compiled at its start"
    condition_threshold {
      filter          = "${local.loads} AND metric.labels.tier != \"executable\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"

      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_PERCENTILE_95"
        group_by_fields      = ["resource.label.service_name", "resource.label.location"]
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "The line of the load says under `tier` and `reason` why no executable fitted: export the model for this processor and this jaxlib again."
  }
}
