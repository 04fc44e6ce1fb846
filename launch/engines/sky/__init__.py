"""Managed jobs of SkyPilot."""
