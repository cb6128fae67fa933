output "emails" {
  description = "Account → its address."
  value       = { for name, account in google_service_account.this : name => account.email }
}

output "members" {
  description = "Account → how IAM names it, serviceAccount:…"
  value       = { for name, account in google_service_account.this : name => account.member }
}

output "names" {
  description = "Account → projects/…/serviceAccounts/…, known once its roles are set: what a build runs as."
  value       = { for name, account in google_service_account.this : name => account.name }
  depends_on  = [google_project_iam_member.this]
}

output "secret_ids" {
  description = "Secret → its name in the project; never its value."
  value       = { for name, secret in google_secret_manager_secret.this : name => secret.secret_id }
  depends_on  = [google_secret_manager_secret_iam_member.reader]
}
