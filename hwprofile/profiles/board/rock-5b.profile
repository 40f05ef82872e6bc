# 4 processors Cortex-A76 at 2.4 GHz and 4 Cortex-A55 at 1.8 GHz (a review, the
# kernel's device tree), up to 32 GB, eMMC module or NVMe.
[profile]
name = "rock-5b"
about = "Radxa ROCK 5B"

[match]
compatible = "radxa,rock-5b"

[facts] # a typical one, for "profile check --as rock-5b"
arch = "arm64"
cpus = 8
memory_mib = 8192
page_kib = 4
storage = "nvme"

[net]
loops = 3 # one fewer than the fast processors; the class counts all eight
