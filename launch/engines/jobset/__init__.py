"""Kubernetes JobSets."""
