# 4 processors Goldmont Plus, 2.0 to 2.7 GHz (a review). Model 7A hexadecimal is
# all of Gemini Lake.
[profile]
name = "j4125"
about = "Intel Celeron J4125 box"

[match]
cpu = "x86,ven0000fam0006mod007A"

[facts] # a typical one, for "profile check --as j4125"
arch = "amd64"
cpus = 4
memory_mib = 8192
page_kib = 4
