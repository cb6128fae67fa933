variable "project_id" {
  description = "Project that the service is in."
  type        = string
}

variable "region" {
  description = "Region that the service runs in."
  type        = string
}

variable "name" {
  description = "Name of the service."
  type        = string

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,47}[a-z0-9])?$", var.name))
    error_message = "name: up to 49 of a-z, 0-9 and -, beginning with a letter, not ending with -."
  }
}

variable "labels" {
  description = "Labels of the service."
  type        = map(string)
  default     = {}
}

variable "image" {
  description = "The container, by tag or by digest."
  type        = string

  validation {
    condition     = can(regex("^[^/]+/.+(:|@sha256:)[^/]+$", var.image)) && !endswith(var.image, ":latest")
    error_message = "image: expected HOST/PATH:TAG or HOST/PATH@sha256:…; latest is not a version that one can go back to."
  }
}

variable "port" {
  description = "Port that the container listens on."
  type        = number
  default     = 8080
}

variable "service_account" {
  description = "Address of the account that the service runs as."
  type        = string

  validation {
    condition     = !endswith(var.service_account, "-compute@developer.gserviceaccount.com")
    error_message = "service_account: the default compute account may edit the whole project; give the service its own (module access)."
  }
}

variable "instance" {
  description = "One instance, and how many: startup_s is how long loading the model may take, cpu_idle takes the CPU away between requests."
  type = object({
    cpu               = optional(string, "1")
    memory            = optional(string, "2Gi")
    concurrency       = optional(number, 32)
    min               = optional(number, 0)
    max               = optional(number, 10)
    timeout_s         = optional(number, 60)
    startup_s         = optional(number, 60)
    startup_cpu_boost = optional(bool, true)
    cpu_idle          = optional(bool, true)
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
    condition     = contains(["1", "2", "4", "6", "8"], var.instance.cpu)
    error_message = "instance.cpu: 1, 2, 4, 6 or 8."
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
    condition     = var.instance.startup_s >= 1 && var.instance.startup_s <= 240
    error_message = "instance.startup_s: 1 to 240, which is what Cloud Run gives a start."
  }
}

variable "gpu" {
  description = "GPU of each instance; none by default."
  type = object({
    type             = optional(string, "nvidia-l4")
    count            = optional(number, 1)
    zonal_redundancy = optional(bool, false)
  })
  default = null

  validation {
    condition     = var.gpu == null || (contains(["4", "6", "8"], var.instance.cpu) && try(tonumber(trimsuffix(var.instance.memory, "Gi")), 0) >= 16)
    error_message = "gpu: an instance with a GPU has at least 4 CPUs and 16Gi; set instance.cpu and instance.memory."
  }
}

variable "release" {
  description = "revision names what image and settings are now. While stable names an earlier revision, the new one gets canary_percent of the traffic, 0 for none but its own address."
  type = object({
    revision       = string
    stable         = optional(string)
    canary_percent = optional(number, 100)
  })

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,11}[a-z0-9])?$", var.release.revision))
    error_message = "release.revision: up to 13 of a-z, 0-9 and -, like v3."
  }

  validation {
    condition     = var.release.canary_percent >= 0 && var.release.canary_percent <= 100 && floor(var.release.canary_percent) == var.release.canary_percent
    error_message = "release.canary_percent: a whole number, 0 to 100."
  }

  validation {
    condition     = var.release.canary_percent == 100 || var.release.stable != null
    error_message = "release: a canary needs the stable revision that takes the rest of the traffic."
  }
}

variable "network" {
  description = "Who reaches the service, and through which subnetwork it reaches others. IAM decides on callers in any case."
  type = object({
    ingress    = optional(string, "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER")
    network    = optional(string)
    subnetwork = optional(string)
    egress     = optional(string, "PRIVATE_RANGES_ONLY")
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains(["INGRESS_TRAFFIC_ALL", "INGRESS_TRAFFIC_INTERNAL_ONLY", "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER"], var.network.ingress)
    error_message = "network.ingress: INGRESS_TRAFFIC_ALL, INGRESS_TRAFFIC_INTERNAL_ONLY or INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER."
  }

  validation {
    condition     = contains(["PRIVATE_RANGES_ONLY", "ALL_TRAFFIC"], var.network.egress)
    error_message = "network.egress: PRIVATE_RANGES_ONLY or ALL_TRAFFIC."
  }
}

variable "environment" {
  description = "Environment of the container; see docs/serving.md for what it reads."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.environment) : !can(regex("(?i)(password|secret|token|private_key)", name))])
    error_message = "environment: what is secret belongs into secrets, which leaves no value in the plan or the state."
  }
}

variable "secrets" {
  description = "Environment variable → secret, and its version."
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
}

variable "deletion_protection" {
  description = "Whether destroy is refused: apply with false first."
  type        = bool
  default     = true
}
