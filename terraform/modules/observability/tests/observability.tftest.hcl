# Runs as it is with the real provider: terraform init && terraform test. Nothing is made, no account is needed.
mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
}

variables {
  project_id = "maas-test"
  name       = "digits"
  services   = ["digits", "digits-batch"]
}

run "watches_without_being_told_whom_to_tell" {
  command = apply

  assert {
    condition     = length(google_monitoring_notification_channel.email) == 0 && length(google_billing_budget.this) == 0
    error_message = "Somebody is told, or a budget made, without being asked for."
  }
  assert {
    condition     = strcontains(google_logging_metric.load.filter, "(\"digits\" OR \"digits-batch\")")
    error_message = "Loads of other services are counted."
  }
  assert {
    condition     = length(jsondecode(google_monitoring_dashboard.this.dashboard_json).gridLayout.widgets) == 8
    error_message = "Charts are missing."
  }
}

run "tells_and_budgets" {
  command = apply

  variables {
    emails = { oncall = "oncall@example.com" }
    budget = { billing_account = "012345-6789AB-CDEF01", monthly = 200 }
    alerts = { error_percent = 2 }
  }

  assert {
    condition     = google_monitoring_alert_policy.errors.conditions[0].condition_threshold[0].threshold_value == 0.02
    error_message = "The threshold is not 2 %."
  }
  assert {
    condition     = google_monitoring_alert_policy.errors.notification_channels == tolist([google_monitoring_notification_channel.email["oncall"].name])
    error_message = "Nobody is told."
  }
  assert {
    condition     = google_billing_budget.this[0].budget_filter[0].projects == toset(["projects/123456789012"]) && google_billing_budget.this[0].amount[0].specified_amount[0].units == "200"
    error_message = "The budget is another one."
  }
}

run "refuses_broken_minutes" {
  command         = plan
  expect_failures = [var.alerts]

  variables {
    alerts = { for_s = 90 }
  }
}

run "refuses_to_watch_nothing" {
  command         = plan
  expect_failures = [var.services]

  variables {
    services = []
  }
}

run "refuses_a_project_for_a_billing_account" {
  command         = plan
  expect_failures = [var.budget]

  variables {
    budget = { billing_account = "maas-test", monthly = 200 }
  }
}
