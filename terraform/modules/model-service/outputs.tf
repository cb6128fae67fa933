output "url" {
  description = "Address of the service; what maas_sdk.client is given."
  value       = google_cloud_run_v2_service.this.uri
}

output "name" {
  description = "Name of the service."
  value       = google_cloud_run_v2_service.this.name
}

output "traffic" {
  description = "Revision → percent of the traffic."
  value = local.split ? {
    (var.release.stable)   = 100 - var.release.canary_percent
    (var.release.revision) = var.release.canary_percent
  } : { (var.release.revision) = 100 }
}
