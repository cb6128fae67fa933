output "url" {
  description = "Address of the function; what maas_sdk.client is given."
  value       = google_cloudfunctions2_function.this.service_config[0].uri
}

output "name" {
  description = "Name of the function and of its Cloud Run service."
  value       = google_cloudfunctions2_function.this.name
}

output "source" {
  description = "gs://… of the deployed source, which is named by its SHA-256."
  value       = "gs://${google_storage_bucket_object.source.bucket}/${google_storage_bucket_object.source.name}"
}
