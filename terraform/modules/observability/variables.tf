variable "project_id" {
  description = "Project of the functions and services."
  type        = string
}

variable "name" {
  description = "What the dashboard, the alerts and the budget are called."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,40}$", var.name))
    error_message = "name: up to 41 of a-z, 0-9 and -, beginning with a letter."
  }
}

variable "labels" {
  description = "Labels of the alerts and of the dashboard."
  type        = map(string)
  default     = {}
}

variable "services" {
  description = "Names of the functions and services that are watched."
  type        = set(string)

  validation {
    condition     = length(var.services) > 0
    error_message = "services: name at least one."
  }
}

variable "emails" {
  description = "Who is told: a name of your choice → address. Nobody by default, the alerts are only shown then."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for address in values(var.emails) : can(regex("^[^@ ]+@[^@ ]+$", address))])
    error_message = "emails: addresses, like oncall@example.com."
  }
}

variable "alerts" {
  description = "When: percent of requests that end with 5xx, p99 in ms, both for so many seconds; p95 of loading a model in seconds."
  type = object({
    error_percent = optional(number, 1)
    p99_ms        = optional(number, 1000)
    for_s         = optional(number, 300)
    load_s        = optional(number, 5)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.alerts.error_percent > 0 && var.alerts.error_percent < 100
    error_message = "alerts.error_percent: more than 0, less than 100."
  }

  validation {
    condition     = var.alerts.for_s >= 60 && var.alerts.for_s % 60 == 0
    error_message = "alerts.for_s: whole minutes, as 60, 120, 300."
  }

  validation {
    condition     = var.alerts.p99_ms > 0 && var.alerts.load_s > 0
    error_message = "alerts: p99_ms and load_s are more than 0."
  }
}

variable "budget" {
  description = "What the project may cost a month before somebody is told, at each percent of it."
  type = object({
    billing_account = string
    monthly         = number
    currency        = optional(string, "EUR")
    percents        = optional(set(number), [50, 90, 100])
  })
  default = null

  validation {
    condition     = var.budget == null || can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.budget.billing_account))
    error_message = "budget.billing_account: expected a number like 012345-6789AB-CDEF01."
  }

  validation {
    condition     = var.budget == null || try(var.budget.monthly >= 1 && floor(var.budget.monthly) == var.budget.monthly, false)
    error_message = "budget.monthly: a whole amount, at least 1."
  }
}
