package doctor

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/snapshot/fileblob"
)

const (
	// Free space on the data directory's disk, in bytes. The embedded stream alone may grow to
	// 8 GiB.
	lowSpace  = 10 << 30
	noSpace   = 500 << 20
	syncs     = 15                    // flushes that are timed
	slowSync  = 20 * time.Millisecond // each acknowledged append waits for one
	awfulSync = 200 * time.Millisecond
)

// directory checks the data directory and its lock.
func (e *exam) directory() {
	const check = "data directory"
	dir := e.cfg.DataDir
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		e.fresh(check)
		return
	case err != nil:
		e.note(check, Fail, "it cannot be read: %v", "check its owner and permissions, or choose another with --data-dir", pathless(err))
		return
	case !st.IsDir():
		e.note(check, Fail, "it is a file", "choose another with --data-dir")
		return
	}
	if i, err := node.ReadInfo(dir); err == nil {
		e.info, e.known = i, true
	} else if !errors.Is(err, tidemill.ErrNotFound) {
		e.note(check, Warn, "node.json cannot be read", "it is written again by the next start; give --server until then")
	}
	f, err := os.CreateTemp(dir, ".doctor-")
	if err != nil {
		e.note(check, Fail, "files cannot be made in it: %v", "check its owner, permissions and the disk", pathless(err))
		return
	}
	f.Close()
	os.Remove(f.Name())
	e.usable = true
	if _, err := os.Stat(filepath.Join(dir, "LOCK")); err == nil {
		unlock, err := fileblob.LockDir(dir)
		switch {
		case errors.Is(err, tidemill.ErrExists):
			e.running = true
		case err != nil:
			e.note(check, Fail, "it cannot be locked: %v", "use a local disk: network file systems without locks are not safe", err)
			return
		default:
			_ = unlock()
		}
	}
	if !e.format(check, filepath.Join(dir, "store", "FORMAT")) {
		return
	}
	switch {
	case e.running && e.known:
		e.note(check, OK, "in use by node %s, process %d", "", e.info.ID, e.info.PID)
	case e.running:
		e.note(check, OK, "in use by a process", "")
	default:
		e.note(check, OK, "writable and not in use", "")
	}
}

// fresh checks that a data directory that is not there can be made.
func (e *exam) fresh(check string) {
	parent := filepath.Dir(e.cfg.DataDir)
	for {
		st, err := os.Stat(parent)
		if err == nil && st.IsDir() {
			break
		}
		if up := filepath.Dir(parent); up != parent {
			parent = up
			continue
		}
		e.note(check, Fail, "it does not exist and cannot be made", "choose another with --data-dir")
		return
	}
	probe, err := os.MkdirTemp(parent, ".doctor-")
	if err != nil {
		e.note(check, Fail, "it does not exist and cannot be made: %v", "choose another with --data-dir", pathless(err))
		return
	}
	os.Remove(probe)
	e.note(check, OK, "not there yet; the first start makes it", "")
}

// format checks that this program reads the store's format.
func (e *exam) format(check, file string) bool {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return true // no store yet
	}
	n, perr := strconv.Atoi(strings.TrimSpace(string(b)))
	switch {
	case err != nil || perr != nil:
		e.note(check, Fail, "the store's format cannot be read", "restore the store from a backup, or choose another --data-dir")
	case n > fileblob.Format:
		e.note(check, Fail, "the store has format %d; this program reads up to %d", "use a newer tidemill", n, fileblob.Format)
	default:
		return true
	}
	return false
}

// disk checks space and the time of a flush.
func (e *exam) disk(ctx context.Context) {
	dir := e.cfg.DataDir
	for {
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			break
		}
		up := filepath.Dir(dir)
		if up == dir {
			break
		}
		dir = up
	}
	if free, ok := freeBytes(dir); ok {
		gib := float64(free) / (1 << 30)
		switch {
		case free < noSpace:
			e.note("disk space", Fail, "%.1f GiB free", "free some, or move --data-dir to another disk", gib)
		case free < lowSpace:
			e.note("disk space", Warn, "%.1f GiB free; the stream alone may take 8", "free some, or bound the stream with --max-store", gib)
		default:
			e.note("disk space", OK, "%.0f GiB free", "", gib)
		}
	}
	if !e.usable {
		return
	}
	took, err := flush(ctx, dir)
	const remedy = "use a local SSD: every acknowledged append waits for a flush"
	switch {
	case err != nil:
		e.note("disk flush", Fail, "a file cannot be flushed: %v", "check the disk", pathless(err))
	case took > awfulSync:
		e.note("disk flush", Fail, "%v each", remedy, took.Round(time.Millisecond))
	case took > slowSync:
		e.note("disk flush", Warn, "%v each", remedy, took.Round(time.Millisecond))
	default:
		e.note("disk flush", OK, "%v each", "", took.Round(10*time.Microsecond))
	}
}

// flush returns the median time of writing and flushing 4 KiB.
func flush(ctx context.Context, dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, ".doctor-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 4096)
	var took []time.Duration
	for range syncs {
		begin := time.Now()
		if _, err := f.Write(page); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took = append(took, time.Since(begin))
		if ctx.Err() != nil {
			break
		}
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// ports checks the default ports.
func (e *exam) ports() {
	own := map[string]bool{}
	if e.running {
		for _, a := range []string{e.info.GRPC, e.info.HTTP, e.info.RPC, e.info.Gossip, strings.TrimPrefix(e.info.Stream, "nats://")} {
			if _, port, err := net.SplitHostPort(a); err == nil {
				own[port] = true
			}
		}
	}
	var taken, ours []string
	for _, a := range []string{node.DefaultGRPC, node.DefaultHTTP, node.DefaultRPC, node.DefaultGossip, node.DefaultStream} {
		_, port, _ := net.SplitHostPort(a)
		lis, err := net.Listen("tcp", a)
		switch {
		case err == nil:
			lis.Close()
		case own[port]:
			ours = append(ours, port)
		case errors.Is(err, syscall.EADDRINUSE):
			taken = append(taken, port)
		default:
			e.note("ports", Fail, "port %s cannot be listened on", "check the machine's loopback address and this user's rights", port)
			return
		}
	}
	switch {
	case len(taken) > 0:
		e.note("ports", Warn, "in use by others: %s; a start takes free ones instead", "give ports of your own, or stop what uses them", strings.Join(taken, ", "))
	case len(ours) > 0:
		e.note("ports", OK, "%s are this node's; the other default ports are free", "", strings.Join(ours, ", "))
	default:
		e.note("ports", OK, "the default ports are free", "")
	}
}

func pathless(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
