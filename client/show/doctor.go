package show

import (
	"io"

	"github.com/tulle-mesh/tulle/client/doctor"
)

// Doctor writes what a doctor has found: one line per finding, and below it what to do.
func (s Style) Doctor(w io.Writer, r doctor.Report) error {
	codes := map[doctor.Level]string{doctor.OK: green, doctor.Warn: yellow, doctor.Fail: red}
	var rows [][]cell
	for _, result := range r.Results {
		name := result.Check
		for _, f := range result.Findings {
			rows = append(rows, []cell{{text: name}, {text: f.Level.String(), code: codes[f.Level]}, {text: f.Subject, code: bold}, {text: f.What}})
			name = ""
			if f.Do != "" {
				rows = append(rows, []cell{{}, {}, {}, {text: "  " + f.Do, code: dim}})
			}
			if f.YAML != "" {
				rows = append(rows, []cell{{}, {}, {}, {text: "      " + f.YAML, code: cyan}})
			}
		}
	}
	return s.table(w, []column{{title: "CHECK"}, {title: "STATUS"}, {title: "ABOUT"}, {title: "WHAT"}}, rows)
}
