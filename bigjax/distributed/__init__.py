"""Several processes: rendezvous, peers, accelerators."""
