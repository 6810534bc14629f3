package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/process"
)

// disk is a small file system of its own, in memory, that can be made full: a tmpfs in a user and mount
// namespace, which needs no privilege on most Linux systems. A process that holds the namespace
// open keeps it; others enter it.
type disk struct {
	holder *process.Process
	dir    string // where it is mounted, for those who enter
}

// diskSize is what a disk holds when it is not made full.
const diskSize = 2 << 30

// newDisk mounts a disk at dir, or says why this system does not let it.
func newDisk(ctx context.Context, dir string) (*disk, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return nil, err
	}
	const script = `mount -t tmpfs -o size="$1" tmpfs "$0" && echo '{}' && exec sleep 1000000`
	p, err := process.Start("disk", nil, "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, dir, fmt.Sprint(diskSize))
	if err != nil {
		return nil, err
	}
	d := &disk{holder: p, dir: dir}
	if err := p.Ready(ctx, &struct{}{}); err != nil {
		p.Kill()
		return nil, fmt.Errorf("%w: %s", err, p.Tail(3))
	}
	if _, err := process.Run(ctx, d.enter()[0], append(d.enter()[1:], "true")...); err != nil {
		p.Kill()
		return nil, err
	}
	return d, nil
}

// enter is what a command line begins with that is run where the disk is.
func (d *disk) enter() []string {
	return []string{"nsenter", "--target", fmt.Sprint(d.holder.PID()), "--user", "--mount", "--preserve-credentials", "--"}
}

// outside is where this process sees the disk.
func (d *disk) outside() string {
	return filepath.Join("/proc", fmt.Sprint(d.holder.PID()), "root", d.dir)
}

// fill makes the disk as small as what it holds, but for some pages: small writes succeed for a while, then none do.
func (d *disk) fill(ctx context.Context) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.outside(), &st); err != nil {
		return fmt.Errorf("how full the disk is cannot be read: %w: %w", tidemill.ErrUnavailable, err)
	}
	return d.resize(ctx, int64(st.Blocks-st.Bfree)*int64(st.Bsize)+64<<10) //nolint:unconvert // Bsize has another type on other processors
}

// free gives the disk room again.
func (d *disk) free(ctx context.Context) error { return d.resize(ctx, diskSize) }

func (d *disk) resize(ctx context.Context, size int64) error {
	args := append(d.enter()[1:], "mount", "-o", fmt.Sprintf("remount,size=%d", size), d.dir)
	_, err := process.Run(ctx, d.enter()[0], args...)
	return err
}

// keep copies what the disk holds to where others see it when it is gone.
func (d *disk) keep() error {
	err := os.CopyFS(d.dir, os.DirFS(d.outside()))
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

func (d *disk) close() { d.holder.Kill() }
