// Package wukong turns the frames of the WuKong protocol, versions 1 to 5,
// into structs and back, in both directions, and does its cryptography. It
// knows no socket, no clock and no state but a cipher's.
//
// Split cuts one frame off the front of received bytes. A struct per type
// decodes its body and appends itself:
//
//	f, n, err := wukong.Split(in)       // n == 0: wait for more bytes
//	var s wukong.Send
//	err = s.Decode(f, version)          // s.Payload is a view on in
//	out = ack.Append(out)
//
// Where the layout depends on the version of the connection, Decode and Append
// ask for it: the smaller of the client's and LatestVersion. A version above
// 5 is laid out like 5, version 0 like 1.
//
// Ownership: every []byte of a decoded struct is a view on the bytes given to
// Split and is valid exactly as long as they are. Append copies. Neither
// allocates, unless it fails or dst has to grow. After an error the struct's
// fields are undefined. A Cipher belongs to one goroutine; all the rest may be
// used by any.
//
// What is accepted from outside: lengths are checked before they are
// believed, an overlong length field is tolerated, and bytes behind the last
// field of a body are ignored, as the public libraries do. Type 0 and types 13
// to 15 are errors. Whoever gets an error from Split or Decode closes the
// connection: the stream cannot be trusted any more.
//
// What is sent: strings hold at most MaxString bytes and a body at most
// MaxRemaining; who makes a message checks that. Append cuts a longer string,
// so that no frame contradicts its own lengths.
//
// After a crash: nothing is kept, so nothing is lost.
package wukong
