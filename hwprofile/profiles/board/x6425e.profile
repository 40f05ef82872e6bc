# 4 processors (Elkhart Lake, model 96 hexadecimal). No page of figures was
# found: everything stays as the class has it.
[profile]
name = "x6425e"
about = "Intel Atom x6425E board"

[match]
cpu = "x86,ven0000fam0006mod0096"

[facts] # a typical one, for "profile check --as x6425e"
arch = "amd64"
cpus = 4
memory_mib = 4096
page_kib = 4
