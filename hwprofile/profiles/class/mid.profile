# Class mid: everything else that is not a PC. Every class states every key that the table of keys
# leaves to the profile. On a machine with little memory they are made smaller.
[profile]
name = "mid"
about = "everything else that is not a PC"

[net]
loops = 4 # at most; one fewer than processors
scratch = "64KiB"
read_budget = "256KiB"
out_limit = "256KiB"
ring_pool = "32MiB"
max_connections = 20000

[queue]
log_items = 4096
log_bytes = "8MiB"
apply_items = 1024
apply_bytes = "8MiB"
mailbox_items = 4096
mailbox_bytes = "4MiB"

[wal]
roll_size = "16MiB"
group_bytes = "1MiB" # measured on 2026-11-28, as read_budget, scratch, group_items and loops; see docs/benchmarks.md
group_items = 2048
headroom = "64MiB"

[broker]
dedup_window = 200000
max_channels = 80000

[session]
inflight_max = 1024
inflight_total = 65536

[memory]
limit = "256MiB" # at most 40 % of what the machine or the control group has
gc_percent = 50

[advice]
sysctl.net.core.somaxconn = 1024 # caps the queue of new connections, net.backlog
