# 6 processors Cortex-A78AE, 1.5 GHz, 8 GB, NVMe (copy of the data sheet). The
# carrier's name in the device tree is not confirmed on a board.
[profile]
name = "orin-nano"
about = "NVIDIA Jetson Orin Nano 8GB"

[match]
compatible = "nvidia,p3768-0000+p3767-*"

[facts] # a typical one, for "profile check --as orin-nano"
arch = "arm64"
cpus = 6
memory_mib = 8192
page_kib = 4
storage = "nvme"
