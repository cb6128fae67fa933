output "dashboard" {
  description = "Name of the dashboard."
  value       = google_monitoring_dashboard.this.id
}

output "alerts" {
  description = "Names of the alert policies."
  value = {
    errors      = google_monitoring_alert_policy.errors.name
    latency     = google_monitoring_alert_policy.latency.name
    cold_starts = google_monitoring_alert_policy.cold_starts.name
  }
}
