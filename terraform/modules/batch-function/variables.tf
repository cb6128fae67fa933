variable "project_id" {
  description = "Project that the function is in."
  type        = string
}

variable "region" {
  description = "Region that the function runs in."
  type        = string
}

variable "name" {
  description = "Name of the function, and of the Cloud Run service under it."
  type        = string

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,60}[a-z0-9])?$", var.name))
    error_message = "name: up to 62 of a-z, 0-9 and -, beginning with a letter, not ending with -."
  }
}

variable "labels" {
  description = "Labels of the function."
  type        = map(string)
  default     = {}
}

variable "source_code" {
  description = "The zip of a packaged function, the bucket it is uploaded to, and how it is built."
  type = object({
    zip                   = string
    bucket                = string
    runtime               = optional(string, "python311")
    entry_point           = optional(string, "batch")
    build_service_account = optional(string)
  })

  validation {
    condition     = fileexists(var.source_code.zip)
    error_message = "source_code.zip: there is no such file. Package the bundle first, and give an absolute path."
  }

  validation {
    condition     = can(regex("^python3(1[1-9])$", var.source_code.runtime))
    error_message = "source_code.runtime: python311 or newer."
  }
}

variable "service_account" {
  description = "Address of the account that the function runs as and that its trigger calls it as."
  type        = string

  validation {
    condition     = !endswith(var.service_account, "-compute@developer.gserviceaccount.com")
    error_message = "service_account: the default compute account may edit the whole project; give the function its own (module access)."
  }
}

variable "input" {
  description = "Bucket whose new objects are predicted over, and its location: a trigger lives where its bucket does (eu for EU)."
  type = object({
    bucket   = string
    location = string
  })

  validation {
    condition     = var.input.location == lower(var.input.location)
    error_message = "input.location: in lower case, as Eventarc has it: europe-west1, eu."
  }
}

variable "output" {
  description = "Where results go: gs://BUCKET/PREFIX, in another bucket than the input."
  type        = string

  validation {
    condition     = can(regex("^gs://[a-z0-9][a-z0-9._-]+(/.*)?$", var.output))
    error_message = "output: expected gs://BUCKET or gs://BUCKET/PREFIX."
  }

  validation {
    condition     = split("/", trimprefix(var.output, "gs://"))[0] != var.input.bucket
    error_message = "output: results in the input's bucket would be new objects there, and be predicted over in turn. Name another bucket."
  }
}

variable "instance" {
  description = "One instance, and how many: an event's function has at most 540 s."
  type = object({
    cpu       = optional(string, "2")
    memory    = optional(string, "4Gi")
    max       = optional(number, 10)
    timeout_s = optional(number, 540)
  })
  default  = {}
  nullable = false

  # What follows on cpu and memory is that of model-function.
  # https://cloud.google.com/run/docs/configuring/services/memory-limits: more than so many GiB → CPUs at least
  validation {
    condition = alltrue([
      for gib, cpus in { "0.5" = 0.5, "1" = 1, "4" = 2, "8" = 4, "16" = 6, "24" = 8 } :
      try(tonumber(regex("^[0-9]+", var.instance.memory)) * { Mi = 1048576, Gi = 1073741824, M = 1000000, G = 1000000000 }[regex("[MG]i?$", var.instance.memory)], 0) <= tonumber(gib) * 1073741824 || try(tonumber(var.instance.cpu), 0) >= cpus
    ])
    error_message = "instance: more than 512Mi of memory needs at least 0.5 CPUs, more than 1Gi 1, more than 4Gi 2, more than 8Gi 4, more than 16Gi 6, more than 24Gi 8."
  }

  # https://cloud.google.com/run/docs/configuring/services/cpu: CPUs → GiB at least
  validation {
    condition = alltrue([
      for cpus, gib in { "4" = 2, "6" = 4, "8" = 4 } :
      try(tonumber(regex("^[0-9]+", var.instance.memory)) * { Mi = 1048576, Gi = 1073741824, M = 1000000, G = 1000000000 }[regex("[MG]i?$", var.instance.memory)], 0) >= gib * 1073741824 || try(tonumber(var.instance.cpu), 0) < tonumber(cpus)
    ])
    error_message = "instance: 4 CPUs need at least 2Gi of memory, 6 and 8 at least 4Gi."
  }

  validation {
    condition     = can(regex("^[1-9][0-9]*(Mi|Gi|M|G)$", var.instance.memory))
    error_message = "instance.memory: a whole number with Mi, Gi, M or G."
  }

  validation {
    condition = alltrue([
      for nbytes in [try(tonumber(regex("^[0-9]+", var.instance.memory)) * { Mi = 1048576, Gi = 1073741824, M = 1000000, G = 1000000000 }[regex("[MG]i?$", var.instance.memory)], 0)] :
      nbytes >= 134217728 && nbytes <= 34359738368
    ])
    error_message = "instance.memory: 128Mi to 32Gi."
  }

  validation {
    condition     = contains([1, 2, 4, 6, 8], try(tonumber(var.instance.cpu), 0)) || (try(tonumber(var.instance.cpu), 0) >= 0.08 && try(tonumber(var.instance.cpu), 0) < 1)
    error_message = "instance.cpu: 1, 2, 4, 6 or 8, or a fraction from 0.08 on."
  }

  validation {
    condition     = var.instance.timeout_s >= 1 && var.instance.timeout_s <= 540
    error_message = "instance.timeout_s: 1 to 540, which is what a function with a trigger has."
  }

  validation {
    condition     = var.instance.max >= 1
    error_message = "instance.max: at least 1."
  }
}

variable "environment" {
  description = "Environment of the function."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.environment) : !can(regex("(?i)(password|secret|token|private_key)", name))])
    error_message = "environment: what is secret belongs into secrets of module access, not into the plan and the state."
  }
}

variable "retry" {
  description = "Whether an event whose function failed comes again, for up to a day."
  type        = bool
  default     = true
}
