terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.50"
    }
  }

  # The state lies beside these files. For more than one person: terraform/README.md, "State".
}

provider "google" {
  project = var.project_id
  region  = var.region
}
