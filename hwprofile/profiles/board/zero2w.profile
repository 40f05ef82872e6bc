# 4 processors, 512 MB (kernel's device tree): the class is tiny, as the memory
# says. Nothing here is wired to a network, so no advice about queues.
[profile]
name = "zero2w"
about = "Raspberry Pi Zero 2 W"

[match]
compatible = "raspberrypi,model-zero-2-w"

[facts] # a typical one, for "profile check --as zero2w"
arch = "arm64"
cpus = 4
memory_mib = 512
page_kib = 4
storage = "sd"
