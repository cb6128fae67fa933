terraform {
  required_version = ">= 1.9"

  required_providers {
    # TPU VMs are only in google-beta at this version.
    google-beta = {
      source  = "hashicorp/google-beta"
      version = "~> 6.50"
    }
  }
}
