locals {
  members = merge(
    { for key, member in var.iam.readers : "reader-${key}" => { role = "roles/storage.objectViewer", member = member } },
    { for key, member in var.iam.creators : "creator-${key}" => { role = "roles/storage.objectCreator", member = member } },
    { for key, member in var.iam.writers : "writer-${key}" => { role = "roles/storage.objectUser", member = member } },
  )
}

resource "google_storage_bucket_iam_member" "this" {
  for_each = local.members

  bucket = google_storage_bucket.this.name
  role   = each.value.role
  member = each.value.member
}

data "google_storage_project_service_account" "this" {
  count = var.protection.kms_key == null ? 0 : 1

  project = var.project_id
}

resource "google_kms_crypto_key_iam_member" "storage" {
  count = var.protection.kms_key == null ? 0 : 1

  crypto_key_id = var.protection.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = data.google_storage_project_service_account.this[0].member
}
