package wukong

import (
	"bytes"
	"hash/crc32"
)

// Channel types.
const (
	ChannelPerson          = 1
	ChannelGroup           = 2
	ChannelCustomerService = 3 // deprecated by ChannelVisitors
	ChannelCommunity       = 4
	ChannelCommunityTopic  = 5
	ChannelInfo            = 6
	ChannelData            = 7
	ChannelTemp            = 8
	ChannelLive            = 9
	ChannelVisitors        = 10
	ChannelAgent           = 11
	ChannelAgentGroup      = 12
)

// PersonChannel appends the storage id of the channel between two users: their
// uids joined by '@', the one with the larger CRC-32 (IEEE, unsigned) first.
// It is the same whoever of the two is a. Uids must not contain '@'.
//
// With equal checksums the public servers let the order depend on the sender,
// which splits the channel in two; here the uid that sorts last comes first.
func PersonChannel(dst []byte, a, b []byte) []byte {
	ha, hb := checksum(a), checksum(b)
	if ha < hb || ha == hb && bytes.Compare(a, b) < 0 {
		a, b = b, a
	}
	dst = append(dst, a...)
	dst = append(dst, '@')
	return append(dst, b...)
}

// checksum is crc32.ChecksumIEEE, which takes longer to begin than a uid is long.
func checksum(uid []byte) uint32 {
	if len(uid) >= 16 {
		return crc32.ChecksumIEEE(uid)
	}
	sum, table := ^uint32(0), crc32.IEEETable
	for _, c := range uid {
		sum = table[byte(sum)^c] ^ sum>>8
	}
	return ^sum
}

// PersonPeer returns the other party of a person channel as self sees it, self
// itself if it is the only one, nil if self is not in that channel. The result
// is a view on channelID, the storage id.
func PersonPeer(channelID, self []byte) []byte {
	at := bytes.IndexByte(channelID, '@')
	if at < 0 {
		return nil
	}
	first, second := channelID[:at:at], channelID[at+1:]
	switch {
	case bytes.Equal(first, self):
		return second
	case bytes.Equal(second, self):
		return first
	}
	return nil
}
