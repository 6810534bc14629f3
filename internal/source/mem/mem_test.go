package mem_test

import (
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"go.uber.org/goleak"

	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/mem"
	"github.com/tidemill/tidemill/internal/source/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(maxBytes int64) sourcetest.Open {
	return func(t *testing.T, alloc memory.Allocator) source.Stream {
		s := mem.New(mem.Config{MaxBytes: maxBytes, Mem: alloc})
		t.Cleanup(func() { s.Close() })
		return s
	}
}

func TestConformance(t *testing.T) {
	sourcetest.Run(t, open(0), sourcetest.Options{Full: open(1 << 20)})
}
