# Class tiny: one processor, or at most 512 MiB. Every class states every key that the table of keys
# leaves to the profile. On a machine with little memory they are made smaller.
[profile]
name = "tiny"
about = "one processor, or at most 512 MiB"

[net]
loops = 1 # the committer and the core need the other processor, if there is one
scratch = "64KiB"
read_budget = "64KiB"
out_limit = "64KiB"
ring_pool = "8MiB"
max_connections = 2000

[queue]
log_items = 1024
log_bytes = "2MiB"
apply_items = 256
apply_bytes = "2MiB"
mailbox_items = 1024
mailbox_bytes = "1MiB"

[wal]
roll_size = "4MiB"
group_bytes = "256KiB" # measured on 2026-11-28, as read_budget, scratch, group_items and loops; see docs/benchmarks.md
group_items = 512
headroom = "16MiB"

[broker]
dedup_window = 20000
max_channels = 10000

[session]
inflight_max = 256
inflight_total = 16384

[memory]
limit = "64MiB" # at most 40 % of what the machine or the control group has
gc_percent = 50

[advice]
sysctl.net.core.somaxconn = 1024 # caps the queue of new connections, net.backlog
