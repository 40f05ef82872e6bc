# NVMe. Syncs are short and many go at once: what the class says fits, and
# waiting for more before a write would only cost time.
[profile]
name = "nvme"
about = "the data directory is on an NVMe disk"

[match]
storage = "nvme"

[wal]
linger = "0s" # the same as built-in, said so that no board below changes it

[advice]
block.scheduler = "none" # several queues in hardware
