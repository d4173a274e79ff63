package doctor

import (
	"context"
	"fmt"
)

// disk: there is room where the observer keeps everything.
func disk(_ context.Context, e *examination) (wrong []Finding, well string, err error) {
	s, err := e.stats()
	if err != nil {
		return nil, "", err
	}
	d := s.Disk
	if d.Total == 0 {
		return nil, "Not known: the observer does not tell.", nil
	}
	share := float64(d.Free) / float64(d.Total)
	what := fmt.Sprintf("%s of %s are free (%.0f %%) at %s.", bytes(d.Free), bytes(d.Total), 100*share, d.Path)
	f := Finding{Level: Warn, What: what, Do: "Make room, or lower --span-retain-bytes and --metric-retain of the observer."}
	switch {
	case d.Free < 512<<20 || share < 0.02:
		f.Level = Fail
	case d.Free >= 4<<30 && share >= 0.05 || share >= 0.1:
		return nil, what, nil
	}
	return []Finding{f}, "", nil
}

func bytes(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	default:
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	}
}
