"""Machines reached by ssh."""
