variable "project_id" {
  description = "Project that the store is in."
  type        = string
}

variable "region" {
  description = "Region of the store; that of its users, since each call asks it."
  type        = string
}

variable "name" {
  description = "Name of the instance in its region; its secret is named NAME-REGION-url."
  type        = string

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,37}[a-z0-9])?$", var.name))
    error_message = "name: up to 39 of a-z, 0-9 and -, beginning with a letter, not ending with -."
  }
}

variable "labels" {
  description = "Labels of the instance and of its secret."
  type        = map(string)
  default     = {}
}

variable "instance" {
  description = "STANDARD_HA has a second node that takes over; BASIC forgets all counters when its one node is replaced. A counter takes tens of bytes."
  type = object({
    tier          = optional(string, "STANDARD_HA")
    memory_gb     = optional(number, 1)
    redis_version = optional(string, "REDIS_7_2")
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains(["BASIC", "STANDARD_HA"], var.instance.tier)
    error_message = "instance.tier: BASIC or STANDARD_HA."
  }

  validation {
    condition     = var.instance.memory_gb >= 1 && var.instance.memory_gb <= 300 && floor(var.instance.memory_gb) == var.instance.memory_gb
    error_message = "instance.memory_gb: a whole number, 1 to 300."
  }
}

variable "network" {
  description = "VPC network that reaches the store, as projects/P/global/networks/N, and a reserved range for PRIVATE_SERVICE_ACCESS."
  type = object({
    id             = string
    connect_mode   = optional(string, "PRIVATE_SERVICE_ACCESS")
    reserved_range = optional(string)
  })

  validation {
    condition     = can(regex("^projects/[^/]+/global/networks/[^/]+$", var.network.id))
    error_message = "network.id: expected projects/P/global/networks/N."
  }

  validation {
    condition     = contains(["DIRECT_PEERING", "PRIVATE_SERVICE_ACCESS"], var.network.connect_mode)
    error_message = "network.connect_mode: DIRECT_PEERING or PRIVATE_SERVICE_ACCESS."
  }
}

variable "maintenance" {
  description = "When Google may update it, in UTC."
  type = object({
    day  = optional(string, "SUNDAY")
    hour = optional(number, 3)
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains(["MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY"], var.maintenance.day) && var.maintenance.hour >= 0 && var.maintenance.hour <= 23
    error_message = "maintenance: a day as SUNDAY, an hour of 0 to 23."
  }
}

variable "readers" {
  description = "Who may read the address with its password: a name of your choice → member."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for member in values(var.readers) : !startswith(member, "all")])
    error_message = "readers: a password is not for allUsers and allAuthenticatedUsers."
  }
}
