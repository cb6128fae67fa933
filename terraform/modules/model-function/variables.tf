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

variable "description" {
  description = "What the function is."
  type        = string
  default     = "A model behind maas_sdk."
}

variable "labels" {
  description = "Labels of the function."
  type        = map(string)
  default     = {}
}

variable "source_code" {
  description = "The zip of a packaged function, the bucket it is uploaded to, and how it is built. build_service_account is projects/P/serviceAccounts/A; without one, the project's default account builds."
  type = object({
    zip                   = string
    bucket                = string
    runtime               = optional(string, "python311")
    entry_point           = optional(string, "predict")
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
  description = "Address of the account that the function runs as."
  type        = string

  validation {
    condition     = !endswith(var.service_account, "-compute@developer.gserviceaccount.com")
    error_message = "service_account: the default compute account may edit the whole project; give the function its own (module access)."
  }
}

variable "instance" {
  description = "One instance, and how many: cpu as a number of CPUs, memory as 512Mi or 2Gi, concurrency in requests at once, min and max in instances."
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

  # What follows on cpu and memory is said again, before anything is packaged, by maas_sdk/deploy/memory.py.
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
    condition     = can(tonumber(var.instance.cpu)) && (var.instance.concurrency == 1 || try(tonumber(var.instance.cpu), 0) >= 1)
    error_message = "instance: cpu is a number, and more than one request at once needs at least one CPU."
  }

  validation {
    condition     = var.instance.concurrency >= 1 && var.instance.concurrency <= 1000
    error_message = "instance.concurrency: 1 to 1000."
  }

  validation {
    condition     = var.instance.min >= 0 && var.instance.max >= 1 && var.instance.max >= var.instance.min
    error_message = "instance: min is at least 0, max at least 1 and at least min."
  }

  validation {
    condition     = var.instance.timeout_s >= 1 && var.instance.timeout_s <= 3600
    error_message = "instance.timeout_s: 1 to 3600."
  }
}

variable "network" {
  description = "Who reaches the function, and through which VPC connector it reaches others. IAM decides on callers in any case."
  type = object({
    ingress   = optional(string, "ALLOW_INTERNAL_AND_GCLB")
    connector = optional(string)
    egress    = optional(string, "PRIVATE_RANGES_ONLY")
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains(["ALLOW_ALL", "ALLOW_INTERNAL_ONLY", "ALLOW_INTERNAL_AND_GCLB"], var.network.ingress)
    error_message = "network.ingress: ALLOW_ALL, ALLOW_INTERNAL_ONLY or ALLOW_INTERNAL_AND_GCLB."
  }

  validation {
    condition     = contains(["PRIVATE_RANGES_ONLY", "ALL_TRAFFIC"], var.network.egress)
    error_message = "network.egress: PRIVATE_RANGES_ONLY or ALL_TRAFFIC."
  }
}

variable "environment" {
  description = "Environment of the function; see docs/serving.md for what it reads."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.environment) : !can(regex("(?i)(password|secret|token|private_key)", name))])
    error_message = "environment: what is secret belongs into secrets, which leaves no value in the plan or the state."
  }

  validation {
    condition     = alltrue([for name in keys(var.environment) : can(regex("^[A-Za-z_][A-Za-z0-9_]*$", name))])
    error_message = "environment: a name has letters, digits and _, and does not begin with a digit."
  }

  # https://cloud.google.com/run/docs/container-contract
  validation {
    condition     = alltrue([for name in keys(var.environment) : !can(regex("^(PORT|K_(SERVICE|REVISION|CONFIGURATION)|FUNCTION_(TARGET|SIGNATURE_TYPE)|X_GOOGLE_.*)$", name))])
    error_message = "environment: PORT, K_…, FUNCTION_… and X_GOOGLE_… are set by the platform."
  }
}

variable "secrets" {
  description = "Environment variable → secret in the same project, and its version."
  type = map(object({
    secret  = string
    version = optional(string, "latest")
  }))
  default  = {}
  nullable = false
}

variable "invokers" {
  description = "Who may call: a name of your choice → member. public lets in everybody."
  type = object({
    members = optional(map(string), {})
    public  = optional(bool, false)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for member in values(var.invokers.members) : !startswith(member, "all")])
    error_message = "invokers.members: allUsers is said with public = true; allAuthenticatedUsers is everybody with an account at Google."
  }

  validation {
    condition     = alltrue([for member in values(var.invokers.members) : can(regex("^((user|group|serviceAccount|domain):|principal(Set)?://).", member)) || startswith(member, "all")])
    error_message = "invokers.members: a member is written user:…, group:…, serviceAccount:…, domain:…, principal://… or principalSet://…"
  }
}
