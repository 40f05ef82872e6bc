# 4 processors without hyper-threads, up to 3.4 GHz (a review). Family 6, model
# BE hexadecimal is Alder Lake-N, so its siblings N95 and N97 match too.
[profile]
name = "n100"
about = "Intel N100 box"

[match]
cpu = "x86,ven0000fam0006mod00BE"

[facts] # a typical one, for "profile check --as n100"
arch = "amd64"
cpus = 4
memory_mib = 8192
page_kib = 4
storage = "nvme"
