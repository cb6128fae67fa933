# One model behind one function, for a project that has nothing yet.

locals {
  labels = { app = "maas", model = var.name }
  models = "${var.project_id}-${var.name}-models"
  apis   = ["artifactregistry", "cloudbuild", "cloudfunctions", "cloudresourcemanager", "iam", "logging", "run", "storage"]
}

resource "google_project_service" "this" {
  for_each = toset(local.apis)

  project = var.project_id
  service = "${each.value}.googleapis.com"
  # Others in the project may use it.
  disable_on_destroy = false
}

module "access" {
  source     = "../../modules/access"
  depends_on = [google_project_service.this]

  project_id = var.project_id
  prefix     = var.name
  labels     = local.labels
  accounts = {
    run = {
      description = "Runs the function ${var.name}: reads models, nothing else."
    }
    build = {
      description   = "Builds the function ${var.name}."
      project_roles = ["roles/artifactregistry.writer", "roles/logging.logWriter", "roles/storage.objectViewer"]
    }
  }
}

module "models" {
  source     = "../../modules/model-store"
  depends_on = [google_project_service.this]

  project_id = var.project_id
  name       = local.models
  location   = var.region
  labels     = local.labels
  protection = { force_destroy = var.force_destroy }
  iam = {
    readers = { function = module.access.members.run }
    writers = var.publishers
  }
}

# Its own bucket has this grant already.
resource "google_storage_bucket_iam_member" "models" {
  for_each = setsubtract(var.model_buckets, [local.models])

  bucket = each.value
  role   = "roles/storage.objectViewer"
  member = module.access.members.run
}

# Sources can be packaged again: no versions, and destroy takes them along.
module "sources" {
  source     = "../../modules/model-store"
  depends_on = [google_project_service.this]

  project_id = var.project_id
  name       = "${var.project_id}-${var.name}-sources"
  location   = var.region
  labels     = local.labels
  protection = { versioning = false, soft_delete_days = 0, force_destroy = true }
}

module "function" {
  source = "../../modules/model-function"
  # An instance that may not read its bundle when it starts does not ask again.
  depends_on = [google_project_service.this, google_storage_bucket_iam_member.models]

  project_id = var.project_id
  region     = var.region
  name       = var.name
  labels     = local.labels
  source_code = {
    zip                   = var.source_zip
    bucket                = module.sources.name
    runtime               = var.runtime
    build_service_account = module.access.names.build
  }
  service_account = module.access.emails.run
  instance        = var.instance
  environment     = var.environment
  invokers        = var.invokers
  # Reached from everywhere, and open to those whom IAM knows: a laptop is no internal address.
  network = { ingress = "ALLOW_ALL" }
}
