package http1

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
)

// WebSocket over HTTP/2 has no handshake of its own (RFC 8441, section 5), so that on a bridge this side makes and checks the one of RFC 6455, section 4.
const (
	webSocket     = "websocket" // in Upgrade, and as :protocol
	webSocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	webSocketKeys = 24 // length of a key: base64 of 16 bytes
)

// newWebSocketKey makes a Sec-WebSocket-Key.
func newWebSocketKey() string {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails
	return base64.StdEncoding.EncodeToString(nonce[:])
}

// webSocketAccept is the Sec-WebSocket-Accept for a key.
func webSocketAccept(key string) string {
	sum := sha1.Sum([]byte(key + webSocketGUID))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// webSocketKey is the Sec-WebSocket-Key of a request that opens a WebSocket. "": it is none, or one that no server may take (RFC 6455, section 4.2.1),
// or it has a body, for which extended CONNECT has no place.
func (h *head) webSocketKey() string {
	if !h.upgrade || h.chunked || h.length > 0 || string(h.bytes(h.method)) != "GET" {
		return ""
	}
	asked, key := false, -1
	for i := range h.fields[:h.n] {
		switch f := &h.fields[i]; {
		case f.drop:
		case f.id == fieldUpgrade:
			for tok := range bytes.SplitSeq(h.bytes(f.value), []byte(",")) {
				asked = asked || equalFold(bytes.Trim(tok, " \t"), webSocket)
			}
		case equalFold(h.bytes(f.name), "sec-websocket-key"):
			if key >= 0 {
				return ""
			}
			key = i
		}
	}
	var nonce [18]byte // what 24 digits can hold
	v := h.value(key)
	if !asked || len(v) != webSocketKeys {
		return ""
	}
	if n, err := base64.StdEncoding.Decode(nonce[:], []byte(v)); err != nil || n != 16 {
		return ""
	}
	return string([]byte(v))
}

// refusesWebSocket says what is wrong with a 101 to a request that had the key (RFC 6455, section 4.1); "": nothing.
func (h *head) refusesWebSocket(key string) string {
	upgrades, accepts, accepted := 0, 0, false
	for i := range h.fields[:h.n] {
		switch f := &h.fields[i]; {
		case f.id == fieldUpgrade:
			if upgrades++; f.drop || !equalFold(h.bytes(f.value), webSocket) {
				return "the service switched to another protocol than WebSocket"
			}
		case equalFold(h.bytes(f.name), "sec-websocket-accept"):
			accepts++
			accepted = h.str(f.value) == webSocketAccept(key)
		}
	}
	switch {
	case upgrades != 1:
		return "the service switched protocols without saying to which"
	case accepts != 1 || !accepted:
		return "Sec-WebSocket-Accept of the service is not that of our key (RFC 6455, section 4.2.2)"
	}
	return ""
}
