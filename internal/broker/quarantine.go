package broker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/minio/highwayhash"
	"github.com/nats-io/nats-server/v2/server"
)

// Quarantine is a part of the store that Start moved aside because it does not open.
type Quarantine struct {
	What  string // the part, relative to the store's folder
	Where string // where it lies now, relative to the store's parent folder
	Why   string
}

// The server's layout: Dir/jetstream/ACCOUNT/streams/NAME/{meta.inf,meta.sum,msgs,obs}.
const (
	storeDir   = "jetstream"
	streamsDir = "streams"
	metaFile   = "meta.inf"
	metaSum    = "meta.sum"
)

// aside moves rel of dir into the sibling folder DIR-quarantine.
func aside(dir, rel, why string) (Quarantine, error) {
	base := filepath.Base(filepath.Clean(dir)) + "-quarantine"
	side := filepath.Join(filepath.Dir(filepath.Clean(dir)), base)
	if err := os.MkdirAll(side, 0o700); err != nil {
		return Quarantine{}, fmt.Errorf("make the quarantine folder: %w", pathless(err))
	}
	flat := strings.ReplaceAll(rel, string(filepath.Separator), "~")
	for n := 1; ; n++ {
		name := fmt.Sprintf("%03d-%s", n, flat)
		to := filepath.Join(side, name)
		if _, err := os.Lstat(to); err == nil {
			continue
		}
		if err := os.Rename(filepath.Join(dir, rel), to); err != nil {
			return Quarantine{}, fmt.Errorf("move %s aside: %w", rel, pathless(err))
		}
		return Quarantine{What: rel, Where: filepath.Join(base, name), Why: why}, nil
	}
}

// eachStream calls f with every stream's folder, relative to dir, in order.
func eachStream(dir string, f func(rel, account, name string) error) error {
	accounts, err := os.ReadDir(filepath.Join(dir, storeDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the store: %w", pathless(err))
	}
	for _, a := range accounts {
		rel := filepath.Join(storeDir, a.Name(), streamsDir)
		streams, err := os.ReadDir(filepath.Join(dir, rel))
		if err != nil {
			continue // not an account
		}
		for _, s := range streams {
			// A leading dot marks a stream that was being deleted.
			if strings.HasPrefix(s.Name(), ".") || !s.IsDir() {
				continue
			}
			if err := f(filepath.Join(rel, s.Name()), a.Name(), s.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// quarantineBadMeta moves aside the streams that the server would pass over with a warning.
func quarantineBadMeta(dir string) (moved []Quarantine, err error) {
	if fi, err := os.Lstat(filepath.Join(dir, storeDir)); err == nil && !fi.IsDir() {
		q, err := aside(dir, storeDir, "it is not a folder")
		return append(moved, q), err
	}
	err = eachStream(dir, func(rel, _, name string) error {
		why := badMeta(filepath.Join(dir, rel), name)
		if why == "" {
			return nil
		}
		q, err := aside(dir, rel, why)
		if err == nil {
			moved = append(moved, q)
		}
		return err
	})
	return moved, err
}

// badMeta says what is wrong with a stream's description, or "".
func badMeta(folder, name string) string {
	meta, err := os.ReadFile(filepath.Join(folder, metaFile))
	if err != nil {
		return "its description cannot be read"
	}
	sum, err := os.ReadFile(filepath.Join(folder, metaSum))
	if err != nil {
		return "its description has no checksum"
	}
	key := sha256.Sum256([]byte(name))
	h, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return "" // cannot happen with a 32-byte key; the server decides then
	}
	h.Write(meta)
	if hex.EncodeToString(h.Sum(nil)) != string(sum) {
		return "its description does not match its checksum"
	}
	if !json.Valid(meta) {
		return "its description cannot be parsed"
	}
	return ""
}

func quarantineStore(dir, why string) ([]Quarantine, error) {
	q, err := aside(dir, storeDir, why)
	if err != nil {
		return nil, err
	}
	return []Quarantine{q}, nil
}

func quarantineStreams(dir string, rels []string, why string) (moved []Quarantine, err error) {
	for _, rel := range rels {
		q, err := aside(dir, rel, why)
		if err != nil {
			return moved, err
		}
		moved = append(moved, q)
	}
	return moved, nil
}

type loss struct {
	name            string
	messages, bytes uint64
}

// unopened returns the streams that lie on disk and are not served, and what the others lost.
func unopened(srv *server.Server, dir string) (missing []string, lost []loss, err error) {
	info, err := srv.Jsz(&server.JSzOptions{Accounts: true, Streams: true, Limit: 1 << 20})
	if err != nil {
		return nil, nil, fmt.Errorf("list the broker's streams: %w", err)
	}
	served := make(map[string]bool)
	for _, a := range info.AccountDetails {
		for _, s := range a.Streams {
			served[a.Name+"/"+s.Name] = true
			if l := s.State.Lost; l != nil && len(l.Msgs) > 0 {
				lost = append(lost, loss{s.Name, uint64(len(l.Msgs)), l.Bytes})
			}
		}
	}
	err = eachStream(dir, func(rel, account, name string) error {
		if !served[account+"/"+name] {
			missing = append(missing, rel)
		}
		return nil
	})
	return missing, lost, err
}
