# A function of the second generation is called at its Cloud Run service, so that is where callers are let in.
resource "google_cloud_run_v2_service_iam_member" "invoker" {
  for_each = merge(var.invokers.members, var.invokers.public ? { public = "allUsers" } : {})

  project  = var.project_id
  location = google_cloudfunctions2_function.this.location
  name     = google_cloudfunctions2_function.this.name
  role     = "roles/run.invoker"
  member   = each.value
}
