package broker

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/tidemill/tidemill"
)

// logger passes the server's lines on, and the first fatal one to fatal: an embedded server
// must not end the process.
type logger struct {
	log    *slog.Logger
	fatal  chan<- string // holds one
	broken chan<- string // holds one
}

func (l *logger) Noticef(format string, v ...any) { l.log.Debug(line(format, v)) }
func (l *logger) Warnf(format string, v ...any)   { l.log.Warn(line(format, v)) }
func (l *logger) Debugf(format string, v ...any)  {}
func (l *logger) Tracef(format string, v ...any)  {}

// Errorf also tells of what the server does not come back from by itself.
func (l *logger) Errorf(format string, v ...any) {
	s := line(format, v)
	for _, sign := range []string{"Critical write error", "JetStream failed to store a msg", "will be DISABLED"} {
		if strings.Contains(s, sign) {
			select {
			case l.broken <- s:
			default:
			}
		}
	}
	l.log.Error(s)
}

func (l *logger) Fatalf(format string, v ...any) {
	s := line(format, v)
	select {
	case l.fatal <- s:
	default:
	}
	l.log.Error(s)
}

func line(format string, v []any) string {
	return "broker: " + strings.TrimSpace(fmt.Sprintf(format, v...))
}

// classify turns a fatal line into an error: the address is the caller's mistake, all else
// the store's.
func classify(reason, listen string) error {
	if strings.Contains(reason, "listening on port") || strings.Contains(reason, "address already in use") {
		return tidemill.Invalid("the broker cannot listen on %s", "free the port, or use port 0", listen)
	}
	return &storeError{reason: reason}
}
