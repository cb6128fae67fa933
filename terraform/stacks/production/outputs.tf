output "services" {
  description = "Region → address of the service there."
  value       = { for region, service in module.service : region => service.url }
}

output "functions" {
  description = "Region → address of the function there."
  value       = { for region, function in module.function : region => function.url }
}

output "traffic" {
  description = "Revision → percent of the traffic, the same in all regions."
  value       = module.service[local.first].traffic
}

output "store" {
  description = "gs://… of the bucket for models."
  value       = module.models.url
}

output "inputs" {
  description = "Bucket whose new files are predicted over."
  value       = module.work["inputs"].name
}

output "results" {
  description = "Bucket that the results go to."
  value       = module.work["results"].name
}

output "secrets" {
  description = "Names of the secrets, never their values."
  value       = merge(module.access.secret_ids, { for region, limits in module.limits : "limits-${region}" => limits.secret })
}
