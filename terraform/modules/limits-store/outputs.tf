output "secret" {
  description = "Name of the secret that holds rediss://…; for secrets of a function or service. Its value is in no output."
  value       = google_secret_manager_secret.url.secret_id
  depends_on  = [google_secret_manager_secret_version.url, google_secret_manager_secret_iam_member.reader]
}

output "address" {
  description = "Host and port, which are no secret."
  value       = "${google_redis_instance.this.host}:${google_redis_instance.this.port}"
}

output "certificates" {
  description = "Certificates of the authority that signed the store's; what a client checks it against."
  value       = [for certificate in google_redis_instance.this.server_ca_certs : certificate.cert]
}
