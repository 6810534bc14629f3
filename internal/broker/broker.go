package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tidemill/tidemill"
)

// Broker is a running embedded server.
type Broker struct {
	cfg         Config
	srv         *server.Server
	lock        *os.File
	quarantined []Quarantine
	broken      chan string // holds the first line that says so

	mu     sync.Mutex
	conns  map[*nats.Conn]chan struct{} // guarded by mu; the channel closes with the connection
	closed bool                         // guarded by mu
}

// Start opens the store and returns once the server takes connections. A store or stream
// that does not open is moved aside first; see Quarantined. A folder that another broker
// uses is tidemill.ErrConflict; a port in use is tidemill.ErrInvalid.
func Start(cfg Config) (*Broker, error) {
	host, port, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the broker's folder: %w", pathless(err))
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	b := &Broker{cfg: cfg, lock: lock, conns: make(map[*nats.Conn]chan struct{}), broken: make(chan string, 1)}
	if err := b.start(host, port); err != nil {
		unlockDir(lock)
		return nil, err
	}
	return b, nil
}

// start runs the server, moving aside what does not open, until nothing more is found.
func (b *Broker) start(host string, port int) error {
	moved, err := quarantineBadMeta(b.cfg.Dir)
	b.report(moved)
	if err != nil {
		return err
	}
	const attempts = 3
	for attempt := 1; ; attempt++ {
		srv, err := b.run(host, port)
		var store *storeError
		switch {
		case errors.As(err, &store) && attempt < attempts:
			moved, qerr := quarantineStore(b.cfg.Dir, store.Error())
			b.report(moved)
			if qerr != nil {
				return errors.Join(err, qerr)
			}
			continue
		case err != nil:
			return err
		}
		missing, lost, err := unopened(srv, b.cfg.Dir)
		if err != nil {
			stop(srv)
			return err
		}
		for _, l := range lost {
			b.cfg.Logger.Error("a stream has lost messages to damage on disk; readers will stop where rows are missing",
				"stream", l.name, "messages", l.messages, "bytes", l.bytes)
		}
		if len(missing) == 0 {
			b.srv = srv
			return nil
		}
		stop(srv)
		if attempt == attempts {
			return fmt.Errorf("%d streams of the broker do not open: %w", len(missing), tidemill.ErrCorrupt)
		}
		moved, err := quarantineStreams(b.cfg.Dir, missing, "the server did not open it")
		b.report(moved)
		if err != nil {
			return err
		}
	}
}

func (b *Broker) report(moved []Quarantine) {
	for _, q := range moved {
		b.cfg.Logger.Error("damaged part of the broker's store moved aside; nothing was deleted",
			"what", q.What, "to", q.Where, "why", q.Why)
	}
	b.quarantined = append(b.quarantined, moved...)
}

// storeError is the server's refusal of its store, as opposed to its address.
type storeError struct{ reason string }

func (e *storeError) Error() string { return "the store does not open: " + e.reason }
func (e *storeError) Unwrap() error { return tidemill.ErrCorrupt }

func (b *Broker) run(host string, port int) (*server.Server, error) {
	opts := &server.Options{
		ServerName: "tidemill",
		DontListen: b.cfg.Listen == "",
		Host:       host,
		Port:       port,
		TLSConfig:  b.cfg.TLS,
		TLS:        b.cfg.TLS != nil,
		TLSTimeout: 5,
		NoSigs:     true,
		NoLog:      true,
		MaxPayload: MaxPayload,

		JetStream:              true,
		DisableJetStreamBanner: true,
		StoreDir:               b.cfg.Dir,
		SyncAlways:             true,
		JetStreamMaxMemory:     b.cfg.MaxMemory,
		JetStreamMaxStore:      b.cfg.MaxStore,
	}
	if b.cfg.Allow != nil {
		opts.CustomClientAuthentication = &authority{b.cfg.Allow, b.cfg.Logger}
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("configure the broker: %w", err)
	}
	fatal := make(chan string, 1)
	srv.SetLogger(&logger{log: b.cfg.Logger, fatal: fatal, broken: b.broken}, false, false)
	go srv.Start()
	// The server says when it takes connections, not why it never will: that comes as a
	// fatal line. So ask in slices.
	const slice = 50 * time.Millisecond
	for end := time.Now().Add(b.cfg.StartTimeout); ; {
		ready := srv.ReadyForConnections(slice)
		select {
		case reason := <-fatal:
			stop(srv)
			return nil, classify(reason, b.cfg.Listen)
		default:
		}
		if ready {
			break
		}
		if time.Now().After(end) {
			stop(srv)
			return nil, fmt.Errorf("the broker was not ready within %v: %w", b.cfg.StartTimeout, tidemill.ErrNotReady)
		}
	}
	return srv, nil
}

func stop(srv *server.Server) {
	srv.Shutdown()
	srv.WaitForShutdown()
}

// Quarantined tells what Start moved aside.
func (b *Broker) Quarantined() []Quarantine { return append([]Quarantine(nil), b.quarantined...) }

// URL is where other processes dial, or "" when the broker does not listen.
func (b *Broker) URL() string {
	if b.cfg.Listen == "" {
		return ""
	}
	return b.srv.ClientURL()
}

// Broken waits until the server has failed to write what it has to keep, or ctx ends, which is nil. From
// such a failure on the server refuses to write until it is started again: what it had acknowledged is on
// disk, and nothing else is. The error wraps tidemill.ErrFull when the disk is full, else
// tidemill.ErrUnavailable.
func (b *Broker) Broken(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case line := <-b.broken:
		if strings.Contains(line, "no space left") {
			return fmt.Errorf("the stream's disk is full; free space and start the node again: %w", tidemill.ErrFull)
		}
		return fmt.Errorf("the stream's disk cannot be written; mend it and start the node again: %w (%s)", tidemill.ErrUnavailable, line)
	}
}

// Conn returns a new connection inside this process. The caller may close it; Close drains
// it otherwise.
func (b *Broker) Conn(ctx context.Context) (*nats.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("connect: the broker is closed: %w", tidemill.ErrUnavailable)
	}
	done := make(chan struct{})
	opts := append(connOptions(DialConfig{Name: "in-process", Logger: b.cfg.Logger}),
		nats.InProcessServer(b.srv),
		nats.DrainTimeout(drainTimeout),
		nats.ClosedHandler(func(nc *nats.Conn) {
			close(done)
			b.mu.Lock()
			delete(b.conns, nc)
			b.mu.Unlock()
		}),
	)
	nc, err := nats.Connect("", opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the broker: %w: %w", tidemill.ErrUnavailable, err)
	}
	b.conns[nc] = done
	return nc, nil
}

const drainTimeout = 2 * time.Second

// Close drains the connections that Conn gave, stops the server and waits until its store
// is closed. Everything acknowledged is on disk. Closing again does nothing.
func (b *Broker) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	waits := make([]chan struct{}, 0, len(b.conns))
	conns := make([]*nats.Conn, 0, len(b.conns))
	for nc, done := range b.conns {
		conns, waits = append(conns, nc), append(waits, done)
	}
	b.mu.Unlock()
	for _, nc := range conns {
		if err := nc.Drain(); err != nil {
			nc.Close()
		}
	}
	deadline := time.NewTimer(drainTimeout + time.Second)
	defer deadline.Stop()
	for i, done := range waits {
		select {
		case <-done:
		case <-deadline.C:
			conns[i].Close()
			deadline.Reset(0)
		}
	}
	stop(b.srv)
	return unlockDir(b.lock)
}

// pathless drops the path from a file error: texts reach clients.
func pathless(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("%s %s: %w", pe.Op, filepath.Base(pe.Path), pe.Err)
	}
	return err
}
