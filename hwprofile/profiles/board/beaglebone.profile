# 1 processor Cortex-A8, 1 GHz, 32 bits, 512 MB, 4 GB eMMC (a data sheet, the
# kernel's device tree).
[profile]
name = "beaglebone"
about = "BeagleBone Black"

[match]
compatible = "ti,am335x-bone-black"

[facts] # a typical one, for "profile check --as beaglebone"
arch = "arm"
cpus = 1
memory_mib = 512
page_kib = 4
storage = "emmc"
