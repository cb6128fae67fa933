resource "google_secret_manager_secret_iam_member" "reader" {
  for_each = var.readers

  project   = var.project_id
  secret_id = google_secret_manager_secret.url.secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = each.value
}
