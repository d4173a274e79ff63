package http2

import "encoding/binary"

// preface begins every connection (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Frame types (RFC 9113, section 6, and RFC 9218, section 7).
const (
	frameData           = 0x0
	frameHeaders        = 0x1
	framePriority       = 0x2
	frameReset          = 0x3
	frameSettings       = 0x4
	framePush           = 0x5
	framePing           = 0x6
	frameGoaway         = 0x7
	frameWindow         = 0x8
	frameContinuation   = 0x9
	framePriorityUpdate = 0x10
)

// Flags.
const (
	flagEnd        = 0x1 // END_STREAM; ACK of SETTINGS and PING
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Settings (RFC 9113, section 6.5.2, and RFC 8441, section 3).
const (
	settingTableSize     = 0x1
	settingPush          = 0x2
	settingMaxStreams    = 0x3
	settingInitialWindow = 0x4
	settingMaxFrame      = 0x5
	settingMaxHead       = 0x6
	settingConnect       = 0x8
)

// code is an error code (RFC 9113, section 7).
type code uint32

const (
	codeNone        code = 0x0
	codeProtocol    code = 0x1
	codeInternal    code = 0x2
	codeFlowControl code = 0x3
	codeTimeout     code = 0x4
	codeClosed      code = 0x5
	codeFrameSize   code = 0x6
	codeRefused     code = 0x7
	codeCancel      code = 0x8
	codeCompression code = 0x9
	codeConnect     code = 0xa
	codeCalm        code = 0xb
	codeSecurity    code = 0xc
	codeHTTP11      code = 0xd
)

var codeNames = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM",
	"CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

func (c code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "an unknown code"
}

const (
	frameHeader   = 9
	maxFrame      = 16384     // the largest payload we take, and the largest that we send
	maxWindow     = 1<<31 - 1 // RFC 9113, section 6.9.1
	initialWindow = 65535     // RFC 9113, section 6.9.2
	maxStreamID   = 1<<31 - 1
)

// frame is the header of a frame.
type frame struct {
	length int
	kind   uint8
	flags  uint8
	id     uint32
}

// parseFrame reads the header at the beginning of b, which has at least frameHeader bytes. The reserved bit is ignored (RFC 9113, section 4.1).
func parseFrame(b []byte) frame {
	_ = b[8]
	return frame{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		kind:   b[3], flags: b[4],
		id: binary.BigEndian.Uint32(b[5:9]) & maxStreamID,
	}
}

func appendFrame(b []byte, length int, kind, flags uint8, id uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), kind, flags, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func appendReset(b []byte, id uint32, why code) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, frameReset, 0, id), uint32(why))
}

func appendWindow(b []byte, id uint32, n int) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, frameWindow, 0, id), uint32(n))
}

func appendPing(b []byte, ack bool, data [8]byte) []byte {
	flags := uint8(0)
	if ack {
		flags = flagEnd
	}
	return append(appendFrame(b, 8, framePing, flags, 0), data[:]...)
}

func appendGoaway(b []byte, last uint32, why code, text string) []byte {
	b = appendFrame(b, 8+len(text), frameGoaway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	b = binary.BigEndian.AppendUint32(b, uint32(why))
	return append(b, text...)
}

func appendSetting(b []byte, id uint16, v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, id), v)
}

// unpad takes padding off a payload (RFC 9113, section 6.1). False: there is more padding than payload.
func unpad(f frame, p []byte) ([]byte, bool) {
	if f.flags&flagPadded == 0 {
		return p, true
	}
	if len(p) < 1 || int(p[0]) > len(p)-1 {
		return nil, false
	}
	return p[1 : len(p)-int(p[0])], true
}
