output "name" {
  description = "Name of the node."
  value       = var.name
  depends_on  = [google_tpu_v2_vm.this, google_tpu_v2_queued_resource.this]
}

output "addresses" {
  description = "Internal address of each of its VMs; none while a request is queued."
  value       = [for endpoint in try(google_tpu_v2_vm.this[0].network_endpoints, []) : endpoint.ip_address]
}
