terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.50"
    }
    google-beta = {
      source  = "hashicorp/google-beta"
      version = "~> 6.50"
    }
  }

  # terraform init -backend-config=bucket=BUCKET -backend-config=prefix=NAME
  backend "gcs" {}
}

provider "google" {
  project = var.project_id
  # Budgets ask which project asks for them, where a person and not an account does.
  user_project_override = true
  billing_project       = var.project_id
}

provider "google-beta" {
  project               = var.project_id
  user_project_override = true
  billing_project       = var.project_id
}
