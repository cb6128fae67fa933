output "url" {
  description = "Address of the function; what maas_sdk.client is given."
  value       = module.function.url
}

output "store" {
  description = "gs://… of the bucket for models."
  value       = module.models.url
}

output "source" {
  description = "gs://… of the deployed source, which is named by its SHA-256."
  value       = module.function.source
}

output "service_account" {
  description = "Address of the account that the function runs as."
  value       = module.access.emails.run
}
