package exchange

// NormalPath rewrites the path p in place to its normal form and returns how long that is; it is never longer than p, and never empty. p
// begins with '/' and has no bytes but those of IsTarget. What is decided on the result is what the service sees, because the result is
// what is sent to it. In order:
//
//  1. An escape of an unreserved byte (ALPHA DIGIT - . _ ~) is decoded; the hex digits of the others become upper case (RFC 3986, section
//     6.2.2). An escape that is none and %00 are refused.
//  2. A run of slashes becomes one.
//  3. Segments "." and ".." are resolved (RFC 3986, section 5.2.4). A path that leaves the root is refused.
//
// %2F, %5C and ";" keep their place: they are data to many services ("/queues/%2F/jobs"), and separators to some. So a path is refused in
// which a service that takes them for separators, or cuts parameters off, would find a dot segment that was not resolved here: "/a/..%2Fb",
// "/a/..;x/b". "\" itself is no byte of a URI and is refused.
//
// The function is idempotent, and the identity on paths in their normal form.
func NormalPath(p []byte) (int, *Fault) {
	// Each of the steps shortens, so that one pass can write behind itself: w is the length of the normal form of what was read, p[:w] ends
	// with '/' at the beginning of a segment, and seg is where the segment being written began.
	w, seg := 1, 1
	for r := 1; ; {
		if r == len(p) || p[r] == '/' {
			switch n, odd := dots(p[seg:w]); {
			case odd:
				return 0, FaultDots
			case n == 1:
				w = seg
			case n == 2:
				if seg == 1 {
					return 0, FaultRoot
				}
				for w = seg - 1; p[w-1] != '/'; w-- {
				}
			case r < len(p) && w > seg: // an empty segment is dropped: a run of slashes
				p[w] = '/'
				w++
			}
			seg = w
			if r++; r > len(p) {
				return w, nil
			}
			continue
		}
		switch c := p[r]; c {
		case '\\':
			return 0, FaultTarget
		case '%':
			if len(p)-r < 3 || Class[p[r+1]]&IsHex == 0 || Class[p[r+2]]&IsHex == 0 {
				return 0, FaultEscape
			}
			d := HexValue(p[r+1])<<4 | HexValue(p[r+2])
			r += 3
			switch {
			case d == 0:
				return 0, FaultEscape
			case unreserved(d):
				p[w] = d
				w++
			default:
				p[w], p[w+1], p[w+2] = '%', "0123456789ABCDEF"[d>>4], "0123456789ABCDEF"[d&15]
				w += 3
			}
		default:
			p[w] = c
			w++
			r++
		}
	}
}

// dots looks at one segment, unreserved bytes decoded: 1 for ".", 2 for "..". It is odd when it holds a dot segment for those only who
// decode %2F and %5C, or cut parameters off at ';' or %3B.
func dots(s []byte) (n int, odd bool) {
	if string(s) == "." || string(s) == ".." {
		return len(s), false
	}
	lo, params := 0, false // beginning of the part, and whether its name is over
	for i := 0; i < len(s); {
		n, cut := separator(s[i:])
		if n == 0 {
			i++
			continue
		}
		if part := string(s[lo:i]); !params && (part == "." || part == "..") {
			return 0, true
		}
		i += n
		if params = cut; !cut {
			lo = i
		}
	}
	part := string(s[lo:])
	return 0, !params && (part == "." || part == "..")
}

// separator reports whether s begins with what some services take for a slash, or (cut) for the beginning of parameters.
func separator(s []byte) (n int, cut bool) {
	switch {
	case s[0] == ';':
		return 1, true
	case s[0] != '%': // the escape is whole, and in upper case
	case string(s[1:3]) == "2F", string(s[1:3]) == "5C":
		return 3, false
	case string(s[1:3]) == "3B":
		return 3, true
	}
	return 0, false
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// ScanTarget checks the bytes of an origin-form target (RFC 9112, section 3.2.1) that begins with '/', or is empty. path is how long the part
// before the query is; odd says that it may not be in its normal form.
func ScanTarget(b []byte) (path int, odd bool, f *Fault) {
	// One pass finds the end of the path, checks every byte, and sees whether the path may differ from its normal form.
	path = len(b)
	last, sum := uint8(0), uint8(0)
	for i, c := range b {
		k := Class[c]
		if k&IsTarget == 0 {
			return 0, false, FaultTarget
		}
		if c == '?' {
			path = i
			break
		}
		sum |= k&isEscape | k&(last<<1)&isAfter
		last = k & isSlash
	}
	for _, c := range b[path:] {
		if Class[c]&IsTarget == 0 {
			return 0, false, FaultTarget
		}
	}
	return path, sum != 0, nil
}
