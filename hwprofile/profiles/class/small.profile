# Class small: at most 1 GiB. Every class states every key that the table of keys
# leaves to the profile. On a machine with little memory they are made smaller.
[profile]
name = "small"
about = "at most 1 GiB"

[net]
loops = 1 # the committer and the core need the other processor, if there is one
scratch = "64KiB"
read_budget = "128KiB"
out_limit = "128KiB"
ring_pool = "16MiB"
max_connections = 5000

[queue]
log_items = 2048
log_bytes = "4MiB"
apply_items = 512
apply_bytes = "4MiB"
mailbox_items = 2048
mailbox_bytes = "2MiB"

[wal]
roll_size = "8MiB"
group_bytes = "512KiB" # measured on 2026-11-28, as read_budget, scratch, group_items and loops; see docs/benchmarks.md
group_items = 1024
headroom = "32MiB"

[broker]
dedup_window = 50000
max_channels = 30000

[session]
inflight_max = 512
inflight_total = 65536

[memory]
limit = "128MiB" # at most 40 % of what the machine or the control group has
gc_percent = 50

[advice]
sysctl.net.core.somaxconn = 1024 # caps the queue of new connections, net.backlog
