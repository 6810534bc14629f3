package produce

import (
	"io"
	"math"
	"strings"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/file"
)

// Config of a Run. Topic and one of Files and Stdin are required.
type Config struct {
	Topic string
	// Files are read one after the other. With none, Stdin is.
	Files []string
	Stdin io.Reader
	// Read says how the input is read: format, header, schema, types. Its Bad is Run's own.
	Read file.Options
	// Partitions of a topic that has to be made; 0 means 1, or what an existing one has.
	Partitions int
	// KeyColumn, when given, sends rows of equal value in that column to one partition, by a
	// hash. Without it row i goes to partition i mod P. P is the topic's number of partitions
	// when the input was begun, also for a later run that goes on with it after the topic grew.
	KeyColumn string
	// ID names the input, so that a later run with the same ID and input goes on where this
	// one ended. "" means the hash of each file's content, with the settings that number its
	// rows: the same bytes are the same input, under whatever name, and are produced once
	// per topic. Give an ID to produce them again, or to go on with a file that has grown.
	// Required with Stdin. With an ID, the i-th file goes by ID/i: keep their order.
	ID string
	// Rate bounds rows per second; 0 means as fast as the stream takes them.
	Rate float64
	// Flush is how long a row waits at most for others to be appended with it when Rate
	// spaces them out; 0 means 100 ms.
	Flush time.Duration
	// BatchRows bounds the rows of one append; 0 means 4096.
	BatchRows int
	// BatchBytes bounds the estimated bytes of one append; 0 means 512 KiB, which every
	// driver takes.
	BatchBytes int
	// DeadLetter receives malformed rows as JSON lines, and reading goes on. After a crash a
	// few may be written twice, none is lost. nil means that a malformed row ends the run.
	DeadLetter io.Writer
	// Progress, when given, is called after each append and at the end, from Run's goroutine.
	Progress func(Progress)
}

// Progress tells how far a Run is. Counts are over all files.
type Progress struct {
	File    string // the one being read; "" for Stdin
	Rows    int64  // appended by this run
	Skipped int64  // found to be there already
	Bad     int64  // malformed
	Read    int64  // bytes of File read, 0 when unknown
	Size    int64  // bytes of File, 0 when unknown
}

// Result of a Run, also of one that failed.
type Result struct {
	Topic   string       `json:"topic"`
	Rows    int64        `json:"rows"`    // appended by this run
	Skipped int64        `json:"skipped"` // found to be there already
	Bad     int64        `json:"bad"`     // malformed, given to DeadLetter
	Appends int64        `json:"appends"`
	Next    tidemill.Cut `json:"next,omitempty"` // the offset after this run's last row per partition; 0 where it had none
}

func (c *Config) validate() error {
	if err := source.CheckName("topic", c.Topic); err != nil {
		return err
	}
	if err := source.CheckPartitions(c.Topic, c.Partitions); err != nil {
		return err
	}
	switch {
	case len(c.Files) == 0 && c.Stdin == nil:
		return tidemill.Invalid("nothing to produce", "name a file, or - for the standard input")
	case len(c.Files) > 0 && c.Stdin != nil:
		return tidemill.Invalid("files and standard input at once", "give one or the other")
	case c.Stdin != nil && c.ID == "":
		return tidemill.Invalid("the standard input has no identity to go on by", "give an ID")
	case c.Stdin != nil && c.Read.Format == "":
		return tidemill.Invalid("the standard input has no name to tell its format by", "give a format")
	case len(c.ID) > 512 || strings.ContainsAny(c.ID, "\x00\r\n"):
		return tidemill.Invalid("the ID is too long or spans lines", "use up to 512 bytes in one line")
	case c.Rate < 0 || math.IsNaN(c.Rate) || math.IsInf(c.Rate, 0):
		return tidemill.Invalid("a rate of %v rows per second", "use 0 for no bound", c.Rate)
	case c.BatchRows < 0 || c.BatchBytes < 0 || c.Flush < 0:
		return tidemill.Invalid("a negative limit", "use 0 for the default")
	}
	if c.BatchRows == 0 {
		c.BatchRows = 4096
	}
	if c.BatchBytes == 0 {
		c.BatchBytes = 512 << 10
	}
	if c.Flush == 0 {
		c.Flush = 100 * time.Millisecond
	}
	return nil
}
