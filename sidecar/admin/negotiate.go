package admin

import (
	"mime"
	"strconv"
	"strings"
)

// Content types of /metrics.
const (
	typeText        = "text/plain; version=0.0.4; charset=utf-8"
	typeOpenMetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8"
)

// wantsOpenMetrics reads Accept fields (RFC 9110, section 12.5.1): OpenMetrics is sent to whoever prefers it over plain text. A version that is not
// spoken here (Prometheus asks for 1.0.0 and 0.0.1, which differ in nothing that is written) does not count.
func wantsOpenMetrics(accept []string) bool {
	open, text := 0.0, 0.0
	for _, field := range accept {
		for item := range strings.SplitSeq(field, ",") {
			kind, params, err := mime.ParseMediaType(strings.TrimSpace(item))
			if err != nil {
				continue
			}
			q := 1.0
			if s, given := params["q"]; given {
				if q, err = strconv.ParseFloat(s, 64); err != nil || q < 0 || q > 1 {
					continue
				}
			}
			switch kind {
			case "application/openmetrics-text":
				if v := params["version"]; v == "" || v == "1.0.0" || v == "0.0.1" {
					open = max(open, q)
				}
			case "text/plain", "text/*":
				text = max(text, q)
			}
		}
	}
	return open > 0 && open >= text
}
