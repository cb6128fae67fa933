locals {
  by_service = ["resource.label.service_name", "resource.label.location"]

  # Title → filter, how each series is aligned and joined, what it is grouped by, unit.
  charts = {
    "Requests per second" = {
      filter = local.requests, aligner = "ALIGN_RATE", reducer = "REDUCE_SUM"
      groups = concat(local.by_service, ["metric.label.response_code_class"]), unit = "1/s"
    }
    "Latency, p50" = {
      filter  = "metric.type = \"run.googleapis.com/request_latencies\" AND ${local.ours}"
      aligner = "ALIGN_DELTA", reducer = "REDUCE_PERCENTILE_50", groups = local.by_service, unit = "ms"
    }
    "Latency, p99" = {
      filter  = "metric.type = \"run.googleapis.com/request_latencies\" AND ${local.ours}"
      aligner = "ALIGN_DELTA", reducer = "REDUCE_PERCENTILE_99", groups = local.by_service, unit = "ms"
    }
    "Instances" = {
      filter  = "metric.type = \"run.googleapis.com/container/instance_count\" AND ${local.ours}"
      aligner = "ALIGN_MAX", reducer = "REDUCE_SUM", groups = local.by_service, unit = "1"
    }
    "Loading a model, p95, by tier" = {
      filter = local.loads, aligner = "ALIGN_DELTA", reducer = "REDUCE_PERCENTILE_95"
      groups = concat(local.by_service, ["metric.label.tier"]), unit = "s"
    }
    "Memory in use, p99" = {
      filter  = "metric.type = \"run.googleapis.com/container/memory/utilizations\" AND ${local.ours}"
      aligner = "ALIGN_DELTA", reducer = "REDUCE_PERCENTILE_99", groups = local.by_service, unit = "1"
    }
    "Revisions that answer" = {
      filter = local.requests, aligner = "ALIGN_RATE", reducer = "REDUCE_SUM"
      groups = ["resource.label.revision_name"], unit = "1/s"
    }
    "Billed seconds per second" = {
      filter  = "metric.type = \"run.googleapis.com/container/billable_instance_time\" AND ${local.ours}"
      aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", groups = local.by_service, unit = "1"
    }
  }
}

resource "google_monitoring_dashboard" "this" {
  project = var.project_id
  dashboard_json = jsonencode({
    displayName = var.name
    labels      = { for key, value in var.labels : key => value }
    gridLayout = {
      columns = "2"
      widgets = [
        for title, chart in local.charts : {
          title = title
          xyChart = {
            dataSets = [{
              plotType = "LINE"
              timeSeriesQuery = {
                unitOverride = chart.unit
                timeSeriesFilter = {
                  filter = chart.filter
                  aggregation = {
                    alignmentPeriod    = "60s"
                    perSeriesAligner   = chart.aligner
                    crossSeriesReducer = chart.reducer
                    groupByFields      = chart.groups
                  }
                }
              }
            }]
            yAxis = { scale = "LINEAR" }
          }
        }
      ]
    }
  })
}
