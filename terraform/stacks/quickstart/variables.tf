variable "project_id" {
  description = "Project to deploy into; all that is needed beside the zip."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id: 6 to 30 of a-z, 0-9 and -, as `gcloud projects list` shows it; not the project's number or title."
  }
}

variable "region" {
  description = "Region of the bucket and the function."
  type        = string
  default     = "europe-west1"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region: expected a region like europe-west1, not a zone."
  }
}

variable "name" {
  description = "Name of the function; accounts and buckets are named after it."
  type        = string
  default     = "digits"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,18}[a-z0-9]$", var.name))
    error_message = "name: 2 to 20 of a-z, 0-9 and -, beginning with a letter, not ending with -."
  }
}

variable "source_zip" {
  description = "Absolute path of the packaged function, as a zip."
  type        = string
}

variable "runtime" {
  description = "Python of the function, the one that packaged it: bytecode is for one version."
  type        = string
  default     = "python311"
}

variable "instance" {
  description = "One instance of the function, and how many; see modules/model-function."
  type = object({
    cpu         = optional(string, "1")
    memory      = optional(string, "1Gi")
    concurrency = optional(number, 32)
    min         = optional(number, 0)
    max         = optional(number, 10)
    timeout_s   = optional(number, 60)
  })
  default  = {}
  nullable = false
}

variable "environment" {
  description = "Environment of the function; see docs/serving.md."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "invokers" {
  description = "Who may call the function, beside the project's owners: a name of your choice → member, as user:you@example.com. public lets in everybody."
  type = object({
    members = optional(map(string), {})
    public  = optional(bool, false)
  })
  default  = {}
  nullable = false
}

variable "model_buckets" {
  description = "Further buckets that the function fetches its bundle from: it is let in as a reader before it is made. Its own one for models needs no mention."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for name in var.model_buckets : can(regex("^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$", name))])
    error_message = "model_buckets: names of buckets, without gs:// and without a folder."
  }
}

variable "publishers" {
  description = "Who may publish models into the bucket: a name of your choice → member."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "force_destroy" {
  description = "Whether destroy takes the published models along. Apply with true first."
  type        = bool
  default     = false
}
