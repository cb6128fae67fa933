# A model in several regions: a function and a service in each, with a canary; one store of models, offline
# prediction, a Redis and a TPU if asked for, and somebody who is told.

locals {
  labels = merge({ app = "maas", model = var.name }, var.labels)
  apis = concat([
    "artifactregistry", "billingbudgets", "cloudbuild", "cloudfunctions", "cloudresourcemanager", "eventarc",
    "iam", "logging", "monitoring", "pubsub", "run", "secretmanager", "storage", "tpu",
  ], var.limits == null ? [] : ["redis"])
}

locals {
  environment = merge(
    var.sealed ? { MAAS_DECRYPTION_KEY = "gcp-secret:projects/${var.project_id}/secrets/${module.access.secret_ids["bundle-key"]}/versions/latest" } : {},
    var.environment,
  )
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
      description = "Serves: reads models and its secrets, nothing else."
      used_by     = var.deployers
    }
    batch = {
      description = "Predicts over files: reads models and inputs, writes results."
      used_by     = var.deployers
    }
    build = {
      description   = "Builds the functions."
      project_roles = ["roles/artifactregistry.writer", "roles/logging.logWriter", "roles/storage.objectViewer"]
      used_by       = var.deployers
    }
    tpu = {
      description   = "Runs the TPU node: reads models, pulls its image, writes its log."
      project_roles = ["roles/artifactregistry.reader", "roles/logging.logWriter"]
      used_by       = var.deployers
    }
  }
  secrets = {
    bundle-key = { accounts = ["run", "batch"], locations = keys(var.regions) }
  }
}

# -- buckets

module "logs" {
  source     = "../../modules/model-store"
  depends_on = [google_project_service.this]

  project_id = var.project_id
  name       = "${var.project_id}-${var.name}-logs"
  location   = var.store.location
  labels     = local.labels
  protection = { versioning = false }
  expiry     = { object_days = 90 }
  # The group that writes access logs, for all of Google Cloud.
  iam = { creators = { storage = "group:cloud-storage-analytics@google.com" } }
}

module "models" {
  source     = "../../modules/model-store"
  depends_on = [google_project_service.this]

  project_id        = var.project_id
  name              = "${var.project_id}-${var.name}-models"
  location          = var.store.location
  labels            = local.labels
  access_log_bucket = module.logs.name
  protection        = { kms_key = var.store.kms_key }
  iam = {
    readers = { run = module.access.members.run, batch = module.access.members.batch, tpu = module.access.members.tpu }
    writers = var.store.publishers
  }
}

# Sources, inputs and results: what comes from elsewhere or can be made again.
module "work" {
  source     = "../../modules/model-store"
  for_each   = toset(["sources", "inputs", "results"])
  depends_on = [google_project_service.this]

  project_id        = var.project_id
  name              = "${var.project_id}-${var.name}-${each.key}"
  location          = local.first
  labels            = local.labels
  access_log_bucket = module.logs.name
  protection        = { versioning = false, soft_delete_days = each.key == "sources" ? 0 : 7, force_destroy = each.key == "sources" }
  expiry            = { object_days = each.key == "sources" ? null : var.batch.keep_days }
}

# -- in each region

module "limits" {
  source     = "../../modules/limits-store"
  for_each   = var.limits == null ? {} : var.regions
  depends_on = [google_project_service.this]

  project_id = var.project_id
  region     = each.key
  name       = "${var.name}-limits"
  labels     = local.labels
  instance   = var.limits
  network    = { id = var.network_id, connect_mode = "PRIVATE_SERVICE_ACCESS" }
  readers    = { run = module.access.members.run }
}

locals {
  # Region → the secret variables of its function and service.
  limits_secrets = {
    for region in keys(var.regions) :
    region => { for name, limits in module.limits : "MAAS_LIMITS_URL" => { secret = limits.secret } if name == region }
  }
}

module "function" {
  source     = "../../modules/model-function"
  for_each   = var.regions
  depends_on = [google_project_service.this]

  project_id = var.project_id
  region     = each.key
  name       = "${var.name}-fn"
  labels     = local.labels
  source_code = {
    zip                   = var.source_zip
    bucket                = module.work["sources"].name
    build_service_account = module.access.names.build
  }
  service_account = module.access.emails.run
  instance        = var.instance
  environment     = local.environment
  secrets         = local.limits_secrets[each.key]
  network         = { connector = each.value.connector }
  invokers        = { members = var.invokers }
}

module "service" {
  source     = "../../modules/model-service"
  for_each   = var.regions
  depends_on = [google_project_service.this]

  project_id          = var.project_id
  region              = each.key
  name                = var.name
  labels              = local.labels
  image               = var.image
  release             = var.release
  service_account     = module.access.emails.run
  instance            = var.service_instance
  gpu                 = each.value.gpu
  environment         = local.environment
  secrets             = local.limits_secrets[each.key]
  network             = { network = var.network_id, subnetwork = each.value.subnetwork }
  invokers            = { members = var.invokers }
  deletion_protection = var.deletion_protection
}

# -- beside them

locals {
  # Where there is one of something: the region that comes first in the alphabet.
  first = sort(keys(var.regions))[0]
}

module "batch" {
  source     = "../../modules/batch-function"
  depends_on = [google_project_service.this]

  project_id = var.project_id
  region     = local.first
  name       = "${var.name}-batch"
  labels     = local.labels
  source_code = {
    zip                   = var.batch.source_zip
    bucket                = module.work["sources"].name
    build_service_account = module.access.names.build
  }
  service_account = module.access.emails.batch
  input           = { bucket = module.work["inputs"].name, location = local.first }
  output          = "gs://${module.work["results"].name}/${var.name}"
  environment     = local.environment
}

module "tpu" {
  source     = "../../modules/tpu-node"
  for_each   = var.tpu_nodes
  depends_on = [google_project_service.this]

  project_id      = var.project_id
  zone            = each.value.zone
  name            = "${var.name}-${each.key}"
  labels          = local.labels
  accelerator     = { type = each.value.type, runtime_version = each.value.runtime_version, spot = each.value.spot }
  service_account = module.access.emails.tpu
  startup_script  = each.value.startup_script
}

module "observability" {
  source     = "../../modules/observability"
  depends_on = [google_project_service.this]

  project_id = var.project_id
  name       = var.name
  labels     = local.labels
  services   = toset([var.name, "${var.name}-fn", "${var.name}-batch"])
  emails     = var.emails
  alerts     = var.alerts
  budget     = var.budget
}
