"""launch: one command as a group of processes, on this machine or on many; watched, stopped and started again as one."""
