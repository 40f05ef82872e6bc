# An SD card. A sync takes it 2 to 20 ms where a disk of a PC takes less than
# one, and whole blocks of flash are rewritten for a few bytes.
[profile]
name = "sd"
about = "the data directory is on an SD card"

[match]
storage = "sd"

[wal]
linger = "1ms" # little beside a sync, and one sync fewer whenever a second batch comes; from what its syncs take, not measured on one: gatepost calibrate does

[session]
cursor_interval = "3s" # read positions are written a third as often

[advice]
block.scheduler = "none" # a card has one queue and no head to be moved
system.mount = "noatime" # a read should not write
