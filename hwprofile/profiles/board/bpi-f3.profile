# 8 processors X60, 1.6 to 2.0 GHz, 2 to 16 GB (SpacemiT K1; a wiki of a
# distribution). Its name in the device tree is not confirmed on a board.
[profile]
name = "bpi-f3"
about = "Banana Pi F3"

[match]
compatible = ["bananapi,bpi-f3*", "spacemit,k1*"]

[facts] # a typical one, for "profile check --as bpi-f3"
arch = "riscv64"
cpus = 8
memory_mib = 4096
page_kib = 4
storage = "emmc"
