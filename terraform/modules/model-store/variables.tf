variable "project_id" {
  description = "Project that the bucket is in."
  type        = string
}

variable "name" {
  description = "Name of the bucket, unique in all of Google Cloud."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]$", var.name)) && !startswith(var.name, "goog") && !strcontains(var.name, "google")
    error_message = "name: 3 to 63 of a-z, 0-9, - and _, beginning and ending with a letter or digit, not with goog, and without google."
  }
}

variable "location" {
  description = "Region, or EU, US, ASIA. The region of the functions reads fastest."
  type        = string
}

variable "labels" {
  description = "Labels of the bucket."
  type        = map(string)
  default     = {}
}

variable "protection" {
  description = "What keeps objects from being lost or read. kms_key is the full name of a key in Cloud KMS; retention_days forbids deletion for so long."
  type = object({
    versioning       = optional(bool, true)
    soft_delete_days = optional(number, 7)
    retention_days   = optional(number)
    force_destroy    = optional(bool, false)
    kms_key          = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.protection.soft_delete_days == 0 || (var.protection.soft_delete_days >= 7 && var.protection.soft_delete_days <= 90)
    error_message = "protection.soft_delete_days: 0, or 7 to 90."
  }

  validation {
    condition     = var.protection.retention_days == null || !var.protection.versioning
    error_message = "protection: a bucket has a retention_days or versioning, not both. Set versioning to false."
  }

  validation {
    condition     = var.protection.kms_key == null || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.protection.kms_key))
    error_message = "protection.kms_key: expected projects/P/locations/L/keyRings/R/cryptoKeys/K."
  }
}

variable "expiry" {
  description = "When objects go: replaced ones after noncurrent_days if noncurrent_versions newer ones are there, broken uploads after upload_days, all objects after object_days."
  type = object({
    noncurrent_days     = optional(number, 30)
    noncurrent_versions = optional(number, 3)
    upload_days         = optional(number, 7)
    object_days         = optional(number)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for days in values(var.expiry) : coalesce(days, 1) >= 1])
    error_message = "expiry: every number is at least 1."
  }
}

variable "access_log_bucket" {
  description = "Bucket that takes the access logs."
  type        = string
  default     = null
}

variable "iam" {
  description = "Who reads objects, who creates new ones without reading or replacing any, and who does all of it: a name of your choice → member, as serviceAccount:… or group:…"
  type = object({
    readers  = optional(map(string), {})
    creators = optional(map(string), {})
    writers  = optional(map(string), {})
  })
  default  = {}
  nullable = false

  # One by one: a condition with one member that is only known after apply is not decided before.
  validation {
    condition     = alltrue([for member in values(var.iam.readers) : !startswith(member, "all")])
    error_message = "iam: models are not for allUsers and allAuthenticatedUsers."
  }

  validation {
    condition     = alltrue([for member in values(var.iam.creators) : !startswith(member, "all")])
    error_message = "iam: models are not for allUsers and allAuthenticatedUsers."
  }

  validation {
    condition     = alltrue([for member in values(var.iam.writers) : !startswith(member, "all")])
    error_message = "iam: models are not for allUsers and allAuthenticatedUsers."
  }
}
