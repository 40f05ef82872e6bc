# 4 processors Cortex-A53, 2 GB, 8 GB eMMC (MT7986A; a builder's wiki, the
# kernel's device tree).
[profile]
name = "bpi-r3"
about = "Banana Pi R3"

[match]
compatible = ["bananapi,bpi-r3*", "mediatek,mt7986a"]

[facts] # a typical one, for "profile check --as bpi-r3"
arch = "arm64"
cpus = 4
memory_mib = 2048
page_kib = 4
storage = "emmc"
