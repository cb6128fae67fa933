variable "project_id" {
  description = "Project of the accounts and secrets."
  type        = string
}

variable "prefix" {
  description = "What names of accounts and secrets begin with."
  type        = string
  default     = "maas"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,19}$", var.prefix))
    error_message = "prefix: 2 to 20 of a-z, 0-9 and -, beginning with a letter."
  }
}

variable "labels" {
  description = "Labels of the secrets."
  type        = map(string)
  default     = {}
}

variable "accounts" {
  description = "Service accounts: name → what it is for, the roles it has in the project, who may deploy as it (a name of your choice → member). An account with no roles can do nothing until a module grants it something."
  type = map(object({
    description   = string
    project_roles = optional(set(string), [])
    used_by       = optional(map(string), {})
  }))

  validation {
    condition     = alltrue([for name in keys(var.accounts) : can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", "${var.prefix}-${name}"))])
    error_message = "accounts: PREFIX-NAME has 6 to 30 of a-z, 0-9 and -, beginning with a letter, not ending with -."
  }

  validation {
    condition = alltrue(flatten([
      for account in values(var.accounts) : [
        for role in account.project_roles :
        !contains(["roles/owner", "roles/editor", "roles/viewer"], role) && !can(regex("[aA]dmin$", role)) && !can(regex("serviceAccount(User|TokenCreator)$", role))
      ]
    ]))
    error_message = "accounts: owner, editor, viewer, …admin and serviceAccountUser or TokenCreator for a whole project are more than a service needs; name the narrow roles."
  }

  validation {
    condition     = alltrue(flatten([for account in values(var.accounts) : [for role in account.project_roles : can(regex("^(roles|projects/[^/]+/roles|organizations/[^/]+/roles)/", role))]]))
    error_message = "accounts: a role is written roles/…, projects/P/roles/… or organizations/O/roles/…"
  }
}

variable "secrets" {
  description = "Secrets without values: name → accounts (of this module) that may read it; locations pins the replicas, none leaves them to Google."
  type = map(object({
    accounts  = set(string)
    locations = optional(set(string), [])
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue(flatten([for secret in values(var.secrets) : [for account in secret.accounts : contains(keys(var.accounts), account)]]))
    error_message = "secrets: every reader is one of accounts."
  }
}
