# 4 processors Cortex-A76, 2.4 GHz; pages of 16 KiB in the default kernel,
# which net.scratch and the rings of 64 KiB are multiples of (vendor's kernel
# configuration). All sizes stay those of the class.
[profile]
name = "rpi5"
about = "Raspberry Pi 5"

[match]
compatible = "raspberrypi,5-model-b*"

[facts] # a typical one, for "profile check --as rpi5"
arch = "arm64"
cpus = 4
memory_mib = 8192
page_kib = 16
storage = "sd"

[advice] # Armbian does this on boards with four processors and one network queue
irq.eth0 = 3
rps.eth0 = "7"
sysctl.net.core.rps_sock_flow_entries = 32768
