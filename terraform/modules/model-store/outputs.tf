output "name" {
  description = "Name of the bucket; known once its readers and writers are set."
  value       = google_storage_bucket.this.name
  depends_on  = [google_storage_bucket_iam_member.this]
}

output "url" {
  description = "gs://… of the bucket."
  value       = google_storage_bucket.this.url
}
