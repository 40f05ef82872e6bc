# 4 processors with 8 threads, 2.0 GHz (a review). Family 17, model 11
# hexadecimal is all of Raven Ridge.
[profile]
name = "v1605b"
about = "AMD Ryzen V1605B board"

[match]
cpu = "x86,ven0002fam0017mod0011"

[facts] # a typical one, for "profile check --as v1605b"
arch = "amd64"
cpus = 8
memory_mib = 8192
page_kib = 4
storage = "nvme"

[net]
loops = 3 # one fewer than processors; two threads of one do not make two loops
