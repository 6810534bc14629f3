package lease_test

import (
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/tidemill/tidemill/internal/lease"
	"github.com/tidemill/tidemill/internal/lease/leasetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openMem(t *testing.T, opts lease.Options) lease.Store {
	t.Helper()
	m, err := lease.NewMem(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestMem(t *testing.T) { leasetest.Run(t, openMem, synctest.Test) }

func FuzzCheck(f *testing.F) {
	for _, s := range []string{"jobs/a", "", "_x", "a..b", "a.b", ">", "*", "a\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if lease.Check(key, nil) != nil {
			return
		}
		if key == "" || len(key) > 256 || key[0] == '_' || key[0] == '.' || key[len(key)-1] == '.' {
			t.Fatalf("%q passed", key)
		}
		for _, c := range key {
			if c <= ' ' || c > '~' || c == '*' || c == '>' {
				t.Fatalf("%q passed", key)
			}
		}
	})
}
