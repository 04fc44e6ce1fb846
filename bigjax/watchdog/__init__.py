"""Signals, phase timeouts and the end of a process."""
