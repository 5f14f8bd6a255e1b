"""How updates are computed: devices, threads, generators, recorded and guarded steps."""
