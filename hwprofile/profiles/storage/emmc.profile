# eMMC. Flash like that of an SD card behind a better controller, and it cannot
# be exchanged: fewer writes are the longer life of the board.
[profile]
name = "emmc"
about = "the data directory is on eMMC"

[match]
storage = "emmc"

[wal]
linger = "500us" # half of what a card gets: its syncs are shorter; from what its syncs take, not measured on one: gatepost calibrate does

[session]
cursor_interval = "2s" # read positions are written half as often

[advice]
block.scheduler = "none"
system.mount = "noatime"
