# 4 processors Cortex-A72, 1.5 GHz (maker's guide for beginners, appendix F).
# 1 to 8 GB: the class follows the memory that is there.
[profile]
name = "rpi4"
about = "Raspberry Pi 4B"

[match]
compatible = "raspberrypi,4-model-b*"

[facts] # a typical one, for "profile check --as rpi4"
arch = "arm64"
cpus = 4
memory_mib = 4096
page_kib = 4
storage = "sd"

[advice] # Armbian does this on boards with four processors and one network queue
irq.eth0 = 3
rps.eth0 = "7"
sysctl.net.core.rps_sock_flow_entries = 32768
