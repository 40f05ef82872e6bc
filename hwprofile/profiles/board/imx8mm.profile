# Up to 4 processors Cortex-A53, 2.0 GHz (a data sheet, the kernel's device
# tree). Memory and eMMC are not confirmed: the class decides.
[profile]
name = "imx8mm"
about = "NXP i.MX 8M Mini EVK"

[match]
compatible = ["fsl,imx8mm-evk", "fsl,imx8mm"]

[facts] # a typical one, for "profile check --as imx8mm"
arch = "arm64"
cpus = 4
memory_mib = 2048
page_kib = 4
storage = "emmc"

[advice] # Armbian does this on boards with four processors and one network queue
irq.eth0 = 3
rps.eth0 = "7"
sysctl.net.core.rps_sock_flow_entries = 32768
