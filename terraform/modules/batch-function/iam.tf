# The way of an event: Cloud Storage publishes it, Eventarc hands it to the account, the account calls the function.
data "google_storage_project_service_account" "this" {
  project = var.project_id
}

resource "google_project_iam_member" "publisher" {
  project = var.project_id
  role    = "roles/pubsub.publisher"
  member  = data.google_storage_project_service_account.this.member
}

resource "google_project_iam_member" "receiver" {
  project = var.project_id
  role    = "roles/eventarc.eventReceiver"
  member  = "serviceAccount:${var.service_account}"
}

resource "google_cloud_run_v2_service_iam_member" "invoker" {
  project  = var.project_id
  location = google_cloudfunctions2_function.this.location
  name     = google_cloudfunctions2_function.this.name
  role     = "roles/run.invoker"
  member   = "serviceAccount:${var.service_account}"
}

resource "google_storage_bucket_iam_member" "reader" {
  bucket = var.input.bucket
  role   = "roles/storage.objectViewer"
  member = "serviceAccount:${var.service_account}"
}

resource "google_storage_bucket_iam_member" "writer" {
  bucket = split("/", trimprefix(var.output, "gs://"))[0]
  role   = "roles/storage.objectUser"
  member = "serviceAccount:${var.service_account}"
}
