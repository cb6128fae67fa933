locals {
  grants = merge([
    for account, settings in var.accounts : {
      for role in settings.project_roles : "${account}-${role}" => { account = account, role = role }
    }
  ]...)

  actors = merge([
    for account, settings in var.accounts : {
      for key, member in settings.used_by : "${account}-${key}" => { account = account, member = member }
    }
  ]...)

  readers = merge([
    for secret, settings in var.secrets : {
      for account in settings.accounts : "${secret}-${account}" => { secret = secret, account = account }
    }
  ]...)
}

resource "google_project_iam_member" "this" {
  for_each = local.grants

  project = var.project_id
  role    = each.value.role
  member  = google_service_account.this[each.value.account].member
}

# Who may deploy something that runs as the account; on this account alone, not on all of the project.
resource "google_service_account_iam_member" "user" {
  for_each = local.actors

  service_account_id = google_service_account.this[each.value.account].name
  role               = "roles/iam.serviceAccountUser"
  member             = each.value.member
}

resource "google_secret_manager_secret_iam_member" "reader" {
  for_each = local.readers

  project   = var.project_id
  secret_id = google_secret_manager_secret.this[each.value.secret].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.this[each.value.account].member
}
