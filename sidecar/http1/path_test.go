package http1

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// normal parses a request for target and returns its path in normal form.
func normal(target string) (string, *fault) {
	b := []byte("GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n")
	var h head
	if f := h.parseRequest(b, DefaultLimits); f != nil {
		return "", f
	}
	return h.pathString(), nil
}

func TestPaths(t *testing.T) {
	for in, want := range map[string]string{
		"/":                  "/",
		"/a":                 "/a",
		"/a/b/":              "/a/b/",
		"/.well-known/x":     "/.well-known/x",
		"/a/...":             "/a/...",
		"/a./b..c/.d":        "/a./b..c/.d",
		"/a;v=1/b;c":         "/a;v=1/b;c",
		"/a:b@c,d+e=f!$&'()": "/a:b@c,d+e=f!$&'()",
		"/{a}|[b]^<c>\"`":    "/{a}|[b]^<c>\"`",
		"/%C3%A4%20%25":      "/%C3%A4%20%25",
		"/queues/%2F/jobs":   "/queues/%2F/jobs",
		"/a%5Cb":             "/a%5Cb",
		"/%0D%0A":            "/%0D%0A",
		"/%252e%252e/a":      "/%252e%252e/a",
		"/a%3F/../b":         "/b",

		"//":                  "/",
		"//a":                 "/a",
		"/a//b///c//":         "/a/b/c/",
		"/.":                  "/",
		"/./":                 "/",
		"/a/.":                "/a/",
		"/a/./b":              "/a/b",
		"/a/..":               "/",
		"/a/../":              "/",
		"/a/../b":             "/b",
		"/a/b/../../c":        "/c",
		"/a//../b":            "/b",
		"/a/b/..//c":          "/a/c",
		"/%61%7E%2D%2E%5F%30": "/a~-._0",
		"/a/%2e%2E/b":         "/b",
		"/a/.%2e/b":           "/b",
		"/a/%2e":              "/a/",
		"/%c3%a4%2f%5c%3b":    "/%C3%A4%2F%5C%3B",
		"/a%2fb/../c":         "/c",
		"/a/..?x=/../%2e":     "/",
		"http://b/a/../c//d?": "/c/d",
	} {
		if got, f := normal(in); f != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", in, got, f, want)
		}
	}
	for in, want := range map[string]*fault{
		"/..":            faultRoot,
		"/../a":          faultRoot,
		"/a/../../b":     faultRoot,
		"//..":           faultRoot,
		"/%2e%2e/a":      faultRoot,
		"/a/..//../..":   faultRoot,
		"/\\":            faultTarget,
		"/a\\..\\b":      faultTarget,
		"/%":             faultEscape,
		"/%2":            faultEscape,
		"/%2g":           faultEscape,
		"/%zz":           faultEscape,
		"/a%00b":         faultEscape,
		"/a/%%32e":       faultEscape,
		"/a/..%2Fb":      faultDots,
		"/a%2f..":        faultDots,
		"/a%2f../b":      faultDots,
		"/a/%2e%2e%2fb":  faultDots,
		"/a/.%2Fb":       faultDots,
		"/a%5C..%5Cb":    faultDots,
		"/a/..%5c":       faultDots,
		"/a/..;/b":       faultDots,
		"/a/..;x=y/b":    faultDots,
		"/a/.;/b":        faultDots,
		"/a/..%3b/b":     faultDots,
		"/a%2F..;x%2Fb":  faultDots,
		"/a;x%2F..%2Fb":  faultDots,
		"/a;x%2F..;y":    faultDots,
		"/a;/%2e%2e;z/b": faultDots,
	} {
		if got, f := normal(in); f != want {
			t.Errorf("%s: got %q, %v; want %v", in, got, f, want)
		}
	}
}

var (
	anyEscape  = regexp.MustCompile(`%(..?)?`)
	plainByte  = regexp.MustCompile(`^[A-Za-z0-9._~-]$`)
	slashes    = regexp.MustCompile(`/+`)
	slashLike  = regexp.MustCompile(`%2F|%5C`)
	paramsFrom = regexp.MustCompile(`;|%3B`)
	abnormal   = regexp.MustCompile(`//|/\.\.?(/|$)`)
)

// TestReference compares docs/reference/http1.md with the code: every example of a path, and every text with which a message is refused.
func TestReference(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/http1.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?m)^\\| `(/.*?)` \\| `?(.*?)`? \\|$").FindAllStringSubmatch(string(page), -1)
	if len(examples) < 10 {
		t.Fatalf("%d examples of paths on the page", len(examples))
	}
	for _, e := range examples {
		got, f := normal(e[1])
		if f != nil {
			got = "refused"
		}
		if got != e[2] {
			t.Errorf("%s: the page says %s, the code %s", e[1], e[2], got)
		}
	}
	source, err := os.ReadFile("head.go")
	if err != nil {
		t.Fatal(err)
	}
	shared, err := os.ReadFile("../exchange/fault.go")
	if err != nil {
		t.Fatal(err)
	}
	faults := regexp.MustCompile(`&[fF]ault\{Status: (\d+), Text: "((?:[^"\\]|\\.)*)"\}`).FindAllStringSubmatch(string(source)+string(shared), -1)
	_, refused, _ := strings.Cut(string(page), "## Refused")
	listed := strings.Count(refused, "\n| ") - 1
	if len(faults) != listed {
		t.Errorf("the page lists %d texts, the code has %d", listed, len(faults))
	}
	for _, f := range faults {
		if row := "| " + f[1] + " | " + strings.ReplaceAll(f[2], `\"`, `"`) + " |"; !strings.Contains(string(page), row) {
			t.Errorf("the page lacks the row %s", row)
		}
	}
}

// model is normalPath as three readable steps.
func model(p string) (string, bool) {
	ok := true
	p = anyEscape.ReplaceAllStringFunc(p, func(e string) string {
		if len(e) < 3 || strings.Trim(e[1:], "0123456789abcdefABCDEF") != "" || e == "%00" {
			ok = false
			return e
		}
		if c := exchange.HexValue(e[1])<<4 | exchange.HexValue(e[2]); plainByte.MatchString(string(rune(c))) {
			return string(rune(c))
		}
		return strings.ToUpper(e)
	})
	if !ok || strings.Contains(p, `\`) {
		return "", false
	}
	p = slashes.ReplaceAllString(p, "/")
	in := strings.Split(p[1:], "/")
	var out []string
	for i, s := range in {
		last := i == len(in)-1
		switch s {
		case ".", "..":
			if s == ".." {
				if len(out) == 0 {
					return "", false
				}
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		default:
			for _, part := range slashLike.Split(s, -1) {
				name := paramsFrom.Split(part, 2)[0]
				if name == "." || name == ".." {
					return "", false
				}
			}
			out = append(out, s)
		}
	}
	return "/" + strings.Join(out, "/"), true
}

// FuzzPath: the path that is decided on is the model's; it is a fixed point, has no dot segment and no empty one, and the query stays.
func FuzzPath(f *testing.F) {
	for _, s := range []string{
		"/", "/a/b?c=/../d", "//a/./b/../c", "/%7euser/%2e%2e/x%2fy", "/a/..;/b", "/a%2f..%5cb", "/.well-known", "/..", "/a%00", "/%zz", "/a\\b", "/a;b=c//",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		if target == "" || target[0] != '/' {
			return
		}
		for i := range len(target) {
			if exchange.Class[target[i]]&exchange.IsTarget == 0 {
				return
			}
		}
		path, query, asked := strings.Cut(target, "?")
		b := []byte("GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n")
		var h head
		flt := h.parseRequest(b, DefaultLimits)
		want, ok := model(path)
		if ok != (flt == nil) {
			t.Fatalf("%q: got %v; the model says %q, %t", path, flt, want, ok)
		}
		if flt != nil {
			return
		}
		got := h.pathString()
		if got != want {
			t.Fatalf("%q: got %q, the model says %q", path, got, want)
		}
		if asked {
			want += "?" + query
		}
		if sent := string(h.appendTarget(nil)); sent != want {
			t.Fatalf("%q is sent as %q, want %q", target, sent, want)
		}
		if got[0] != '/' || len(got) > len(path) || abnormal.MatchString(got) {
			t.Errorf("%q: %q is no normal path", path, got)
		}
		if again, flt := normal(got); flt != nil || again != got {
			t.Errorf("%q: %q again gives %q, %v", path, got, again, flt)
		}
		// The scan that is fused into the parsing of the target must see whatever normalPath would change.
		p := []byte(path)
		if n, flt := exchange.NormalPath(p); flt != nil || string(p[:n]) != got {
			t.Errorf("%q: normalPath gives %q, %v; want %q", path, p[:n], flt, got)
		}
	})
}
