"""Commands for the cloud: deploy, status, destroy."""
