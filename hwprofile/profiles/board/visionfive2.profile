# 4 processors U74, 1.5 GHz, rv64gc, 2 to 8 GB (JH7110; a wiki of a distribution,
# the kernel's device tree).
[profile]
name = "visionfive2"
about = "StarFive VisionFive 2"

[match]
compatible = ["starfive,visionfive-2-*", "starfive,jh7110"]

[facts] # a typical one, for "profile check --as visionfive2"
arch = "riscv64"
cpus = 4
memory_mib = 4096
page_kib = 4
storage = "sd"
