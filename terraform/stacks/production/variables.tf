variable "project_id" {
  description = "Project to deploy into."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id: 6 to 30 of a-z, 0-9 and -, as `gcloud projects list` shows it; not the project's number or title."
  }
}

variable "name" {
  description = "Name of the model; all that is made is named after it."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,12}[a-z0-9]$", var.name))
    error_message = "name: 2 to 14 of a-z, 0-9 and -, beginning with a letter, not ending with -."
  }
}

variable "labels" {
  description = "Labels of all that takes some."
  type        = map(string)
  default     = {}
}

variable "regions" {
  description = "Region → its subnetwork (projects/P/regions/R/subnetworks/S) and VPC access connector in network_id, and a GPU for its instances."
  type = map(object({
    subnetwork = string
    connector  = string
    gpu = optional(object({
      type  = optional(string, "nvidia-l4")
      count = optional(number, 1)
    }))
  }))

  validation {
    condition     = length(var.regions) >= 2
    error_message = "regions: at least two, or one that fails takes the model along. For one region take the stack quickstart."
  }

  validation {
    condition     = alltrue([for region in keys(var.regions) : can(regex("^[a-z]+-[a-z]+[0-9]+$", region))])
    error_message = "regions: expected regions like europe-west1, not zones."
  }
}

variable "network_id" {
  description = "VPC network of the services, as projects/P/global/networks/N; where limits are made, with a range reserved for private service access."
  type        = string
}

variable "source_zip" {
  description = "Absolute path of the packaged function, as a zip."
  type        = string
}

variable "image" {
  description = "The container of the service, by tag or by digest."
  type        = string
}

variable "release" {
  description = "What the service runs: revision names image and settings, stable an earlier revision that takes what canary_percent leaves."
  type = object({
    revision       = string
    stable         = optional(string)
    canary_percent = optional(number, 100)
  })
}

variable "instance" {
  description = "One instance of the function, and how many; see modules/model-function."
  type = object({
    cpu         = optional(string, "1")
    memory      = optional(string, "1Gi")
    concurrency = optional(number, 32)
    min         = optional(number, 0)
    max         = optional(number, 20)
    timeout_s   = optional(number, 60)
  })
  default  = {}
  nullable = false
}

variable "service_instance" {
  description = "One instance of the service, and how many; see modules/model-service."
  type = object({
    cpu               = optional(string, "2")
    memory            = optional(string, "4Gi")
    concurrency       = optional(number, 64)
    min               = optional(number, 1)
    max               = optional(number, 20)
    timeout_s         = optional(number, 60)
    startup_s         = optional(number, 60)
    startup_cpu_boost = optional(bool, true)
    cpu_idle          = optional(bool, true)
  })
  default  = {}
  nullable = false
}

variable "environment" {
  description = "Environment of functions and services; see docs/serving.md."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "sealed" {
  description = "Whether bundles are encrypted, with the key that is put into the secret NAME-bundle-key."
  type        = bool
  default     = false
}

variable "store" {
  description = "The bucket for models: a location that is near to all regions, a key in Cloud KMS, who publishes (a name of your choice → member)."
  type = object({
    location   = optional(string, "EU")
    kms_key    = optional(string)
    publishers = optional(map(string), {})
  })
  default  = {}
  nullable = false
}

variable "limits" {
  description = "A Redis in each region for limits that instances share, as modules/limits-store makes it; {} takes its defaults, null makes none."
  type = object({
    tier          = optional(string, "STANDARD_HA")
    memory_gb     = optional(number, 1)
    redis_version = optional(string, "REDIS_7_2")
  })
  # Nothing in maas_sdk reads it yet, and it costs while it stands.
  default = null
}

variable "batch" {
  description = "Offline prediction: the zip of its function, and for how many days inputs and results are kept."
  type = object({
    source_zip = string
    keep_days  = optional(number, 30)
  })
}

variable "tpu_nodes" {
  description = "TPU nodes; none by default, since they cost while they stand."
  type = map(object({
    zone            = string
    type            = optional(string, "v5litepod-1")
    runtime_version = optional(string, "v2-alpha-tpuv5-lite")
    spot            = optional(bool, false)
    startup_script  = optional(string)
  }))
  default  = {}
  nullable = false
}

variable "invokers" {
  description = "Who may call: a name of your choice → member."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "deployers" {
  description = "Who may deploy what runs as the accounts: a name of your choice → member."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "emails" {
  description = "Who is told of alerts: a name of your choice → address."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "alerts" {
  description = "When; see modules/observability."
  type = object({
    error_percent = optional(number, 1)
    p99_ms        = optional(number, 1000)
    for_s         = optional(number, 300)
    load_s        = optional(number, 5)
  })
  default  = {}
  nullable = false
}

variable "budget" {
  description = "What the project may cost a month before somebody is told."
  type = object({
    billing_account = string
    monthly         = number
    currency        = optional(string, "EUR")
  })
  default = null
}

variable "deletion_protection" {
  description = "Whether destroy is refused while the services are there: apply with false first."
  type        = bool
  default     = true
}
