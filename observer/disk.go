package observer

import (
	"fmt"
	"syscall"

	"github.com/tulle-mesh/tulle/dashboard/source"
)

// disk is the file system that holds the data directory.
func (o *Observer) disk() (source.Disk, error) {
	d := source.Disk{Path: o.cfg.DataDir}
	var s syscall.Statfs_t
	if err := syscall.Statfs(o.cfg.DataDir, &s); err != nil {
		return d, fmt.Errorf("the free space of %s cannot be read: %w", o.cfg.DataDir, err)
	}
	d.Free, d.Total = s.Bavail*uint64(s.Bsize), s.Blocks*uint64(s.Bsize)
	return d, nil
}
