# Class x86: a PC with more than 1 GiB. Every class states every key that the table of keys
# leaves to the profile. On a machine with little memory they are made smaller.
[profile]
name = "x86"
about = "a PC with more than 1 GiB"

[net]
loops = 4 # at most; one fewer than processors
scratch = "256KiB"
read_budget = "256KiB"
out_limit = "256KiB"
ring_pool = "64MiB"
max_connections = 50000

[queue]
log_items = 8192
log_bytes = "16MiB"
apply_items = 2048
apply_bytes = "16MiB"
mailbox_items = 8192
mailbox_bytes = "8MiB"

[wal]
roll_size = "32MiB"
group_bytes = "1MiB" # measured on 2026-11-28, as read_budget, scratch, group_items and loops; see docs/benchmarks.md
group_items = 4096
headroom = "64MiB"

[broker]
dedup_window = 500000
max_channels = 200000

[session]
inflight_max = 1024
inflight_total = 65536

[memory]
limit = "512MiB" # at most 40 % of what the machine or the control group has
gc_percent = 50

[advice]
sysctl.net.core.somaxconn = 1024 # caps the queue of new connections, net.backlog
