"""The device mesh, logical axes and partition rules."""
