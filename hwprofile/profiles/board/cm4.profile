# A Pi 4 with eMMC, or none on the Lite (data sheet of the module).
[profile]
name = "cm4"
about = "Raspberry Pi Compute Module 4"

[match]
compatible = "raspberrypi,4-compute-module*"

[facts] # a typical one, for "profile check --as cm4"
arch = "arm64"
cpus = 4
memory_mib = 4096
page_kib = 4
storage = "emmc"
