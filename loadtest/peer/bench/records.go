//go:build linux

package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
)

// records is TLS 1.3's record layer (RFC 8446, section 5) of one connection after a handshake that crypto/tls made: seal and open on byte slices, for the
// epoll loops, which cannot use crypto/tls' blocking connections. Not safe for concurrent use.
type records struct {
	out, in half
}

// half is one direction.
type half struct {
	aead  cipher.AEAD
	iv    [12]byte
	nonce [12]byte
	seq   uint64
}

const (
	recordHead  = 5
	recordMax   = 1 << 14 // plaintext of one record, RFC 8446, section 5.1
	typeAlert   = 21
	typeHello   = 22 // handshake
	typeData    = 23
	helloTicket = 4 // NewSessionTicket, RFC 8446, section 4.6.1
)

// keyLog takes the lines of tls.Config.KeyLogWriter (NSS key log format) of one handshake.
type keyLog struct{ text bytes.Buffer }

func (k *keyLog) Write(p []byte) (int, error) { return k.text.Write(p) }

func (k *keyLog) secret(label string) ([]byte, error) {
	for line := range bytes.Lines(k.text.Bytes()) {
		f := bytes.Fields(line)
		if len(f) == 3 && string(f[0]) == label {
			return hex.DecodeString(string(f[2]))
		}
	}
	return nil, fmt.Errorf("the handshake gave no %s: it was not TLS 1.3", label)
}

func newRecords(suite uint16, k *keyLog, client bool) (*records, error) {
	var digest func() hash.Hash
	var size int
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256:
		digest, size = sha256.New, 16
	case tls.TLS_AES_256_GCM_SHA384:
		digest, size = sha512.New384, 32
	default:
		return nil, fmt.Errorf("cipher suite %s: AES-GCM was expected of a peer on a machine with AES instructions", tls.CipherSuiteName(suite))
	}
	mine, theirs := "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"
	if !client {
		mine, theirs = theirs, mine
	}
	r := &records{}
	for _, d := range []struct {
		label string
		h     *half
	}{{mine, &r.out}, {theirs, &r.in}} {
		secret, err := k.secret(d.label)
		if err != nil {
			return nil, err
		}
		key, err := expand(digest, secret, "key", size)
		if err != nil {
			return nil, err
		}
		iv, err := expand(digest, secret, "iv", len(d.h.iv))
		if err != nil {
			return nil, err
		}
		copy(d.h.iv[:], iv)
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		if d.h.aead, err = cipher.NewGCM(block); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// expand is HKDF-Expand-Label with an empty context (RFC 8446, section 7.1).
func expand(digest func() hash.Hash, secret []byte, label string, size int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	info = append(info, byte(len(label)))
	info = append(info, label...)
	info = append(info, 0)
	return hkdf.Expand(digest, secret, string(info), size)
}

// next is the nonce of the next record (RFC 8446, section 5.3).
func (h *half) next() []byte {
	h.nonce = h.iv
	low := binary.BigEndian.Uint64(h.nonce[4:])
	binary.BigEndian.PutUint64(h.nonce[4:], low^h.seq)
	h.seq++
	return h.nonce[:]
}

// seal appends p to dst as records of application data.
func (r *records) seal(dst, p []byte) []byte {
	for len(p) > 0 {
		part := p[:min(len(p), recordMax)]
		p = p[len(part):]
		length := len(part) + 1 + r.out.aead.Overhead()
		dst = slices.Grow(dst, recordHead+length) // Seal works in place
		at := len(dst)
		dst = append(dst, typeData, 3, 3, byte(length>>8), byte(length))
		dst = append(dst, part...)
		dst = append(dst, typeData)
		head, body := dst[at:at+recordHead], dst[at+recordHead:]
		r.out.aead.Seal(body[:0], r.out.next(), body, head)
		dst = dst[:len(dst)+r.out.aead.Overhead()]
	}
	return dst
}

// open decrypts the whole records in raw and appends their data to dst. It returns what is left of raw: the beginning of a record. Session tickets are
// skipped; io.EOF is the peer's close_notify.
func (r *records) open(dst, raw []byte) (plain, rest []byte, err error) {
	for len(raw) >= recordHead {
		n := recordHead + (int(raw[3])<<8 | int(raw[4]))
		if len(raw) < n {
			break
		}
		record := raw[:n]
		raw = raw[n:]
		inner, err := r.in.aead.Open(record[recordHead:recordHead], r.in.next(), record[recordHead:], record[:recordHead])
		if err != nil {
			return dst, raw, fmt.Errorf("TLS record of type %d, %d bytes: %w", record[0], n, err)
		}
		inner = bytes.TrimRight(inner, "\x00") // padding
		if len(inner) == 0 {
			return dst, raw, errors.New("TLS record without content")
		}
		content, kind := inner[:len(inner)-1], inner[len(inner)-1]
		switch {
		case kind == typeData:
			dst = append(dst, content...)
		case kind == typeHello && len(content) > 0 && content[0] == helloTicket:
		case kind == typeAlert && len(content) == 2 && content[1] == 0:
			return dst, raw, io.EOF
		default:
			return dst, raw, fmt.Errorf("unexpected TLS content: type %d, % x", kind, content[:min(len(content), 4)])
		}
	}
	return dst, raw, nil
}
