"""Files and objects: storage, retries, safe reading, atomic and asynchronous writing."""
