variable "project_id" {
  description = "Project that the node is in."
  type        = string
}

variable "zone" {
  description = "Zone that has TPUs of the type."
  type        = string

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+-[a-z]$", var.zone))
    error_message = "zone: expected a zone like us-central1-a, not a region."
  }
}

variable "name" {
  description = "Name of the node."
  type        = string

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,60}[a-z0-9])?$", var.name))
    error_message = "name: up to 62 of a-z, 0-9 and -, beginning with a letter, not ending with -."
  }
}

variable "labels" {
  description = "Labels of the node; a queued one has none."
  type        = map(string)
  default     = {}
}

variable "accelerator" {
  description = "The slice: type as v5litepod-1 or v6e-8, and the image of its VMs. spot is cheaper and can be taken away."
  type = object({
    type            = optional(string, "v5litepod-1")
    runtime_version = optional(string, "v2-alpha-tpuv5-lite")
    spot            = optional(bool, false)
    reserved        = optional(bool, false)
  })
  default  = {}
  nullable = false

  validation {
    condition     = can(regex("^(v[2-4]|v5p|v5litepod|v6e)-[0-9]+$", var.accelerator.type))
    error_message = "accelerator.type: expected a type like v5litepod-1, v5p-8 or v6e-8."
  }

  validation {
    condition     = !(var.accelerator.spot && var.accelerator.reserved)
    error_message = "accelerator: spot or reserved, not both."
  }
}

variable "queued" {
  description = "Whether to wait for capacity instead of failing without it."
  type        = bool
  default     = false

  validation {
    condition     = !var.queued || (var.startup_script == null && var.service_account == null && !var.accelerator.spot && !var.accelerator.reserved)
    error_message = "queued: a queued resource takes no startup_script, service_account, spot or reserved at this version of the provider."
  }
}

variable "network" {
  description = "Network of the node. It has no external addresses: the subnetwork needs Private Google Access, or the node reaches nothing."
  type = object({
    network    = optional(string, "default")
    subnetwork = optional(string)
  })
  default  = {}
  nullable = false
}

variable "service_account" {
  description = "Address of the account that the node runs as."
  type        = string
  default     = null
}

variable "startup_script" {
  description = "Shell script that is run at each boot. It is no secret: whoever may see the node reads it."
  type        = string
  default     = null
}
