package produce

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/zeebo/xxh3"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/file"
)

// input is one file, or the standard input.
type input struct {
	name   string // for messages
	format file.Format
	r      io.Reader
	close  func() error
	read   *int64 // bytes read, nil when not counted
	size   int64
	prefix string // of its append keys
}

// open opens the i-th input of cfg.
func open(cfg *Config, i int) (*input, error) {
	if cfg.Stdin != nil {
		return &input{name: "standard input", format: cfg.Read.Format, r: cfg.Stdin, close: func() error { return nil }, prefix: cfg.ID + "/0"}, nil
	}
	name := cfg.Files[i]
	in := &input{name: name, format: cfg.Read.Format}
	if in.format == "" {
		var err error
		if in.format, err = file.FormatOf(name); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("file %s: %w", name, tidemill.ErrNotFound)
		}
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	in.close = f.Close
	if err := in.identify(cfg, i, f); err != nil {
		f.Close()
		return nil, err
	}
	switch in.format {
	case file.Parquet:
		in.r = f // sought in, so there is nothing to count
	default:
		c := &counter{r: f}
		in.r, in.read = c, &c.n
	}
	return in, nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// identify sets the key prefix and size, and leaves f at its beginning.
func (in *input) identify(cfg *Config, i int, f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open %s: %w", in.name, err)
	}
	if fi.IsDir() {
		return tidemill.Invalid("%s is a folder", "name its files", in.name)
	}
	in.size = fi.Size()
	if cfg.ID != "" {
		in.prefix = fmt.Sprintf("%s/%d", cfg.ID, i)
		return nil
	}
	h := xxh3.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("read %s: %w", in.name, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("%s cannot be read twice, which finding its identity takes: give an ID: %w", in.name, tidemill.ErrInvalid)
	}
	sum := h.Sum128().Bytes()
	in.prefix = fmt.Sprintf("%s:%s", in.format, hex.EncodeToString(sum[:]))
	if cfg.Read.NoHeader {
		in.prefix += ":no-header"
	}
	if cfg.KeyColumn != "" {
		in.prefix += fmt.Sprintf(":by=%016x", xxh3.HashString(cfg.KeyColumn))
	}
	return nil
}
