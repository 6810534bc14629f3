package ps

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
)

// TestCore plays the transcripts in testdata/core. A transcript is blocks apart by empty
// lines: events, a line of dashes, and the effects that follow from them. A line is a word and
// key=value pairs; numbers that a transcript leaves out are 0, but for gen and epoch, which
// are 1. With -rewrite the effects are written anew.
//
//	core staleness=0                                  a new core
//	assign gen=1 epochs=1,1                           restored gen=1 cut=0,0 round=0 examples=0
//	pull id=1 part=0 round=1                          fence id=1 part=0 epoch=2
//	push id=1 part=0 round=1 range=0-4 floor=0 members=0,1 examples=4
//	snapshot id=1 round=2 cut=8,8                     state
//	adopt id=1 shard=2                                settle id=1 shard=2 round=2 cut=8,8
//	fetched id=1 shard=2 copy=1                       settled id=1 shard=2 round=2 cut=8,8 examples=16
//	copy id=1 shard=2                                 copyrest id=1 shard=2 copy=1 round=2 cut=8,8
func TestCore(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "core", "*.txt"))
	must(t, err)
	if len(files) == 0 {
		t.Fatal("no transcripts")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			must(t, err)
			var out strings.Builder
			var core *Core
			for n, block := range strings.Split(strings.Trim(string(data), "\n"), "\n\n") {
				if n > 0 {
					out.WriteString("\n")
				}
				events, want, _ := strings.Cut(block+"\n", "----\n")
				out.WriteString(events)
				var got strings.Builder
				asked := false
				for _, line := range strings.Split(strings.TrimSpace(events), "\n") {
					if line == "" || strings.HasPrefix(line, "#") {
						continue
					}
					asked = true
					core = play(t, core, line, &got)
				}
				if !asked {
					continue // a remark
				}
				out.WriteString("----\n" + got.String())
				if want := strings.TrimRight(want, "\n"); !*rewrite && strings.TrimRight(got.String(), "\n") != want {
					t.Errorf("%s\ngives\n%s\nand should give\n%s", strings.TrimSpace(events), got.String(), want)
				}
			}
			if *rewrite {
				must(t, os.WriteFile(file, []byte(out.String()), 0o644))
			}
		})
	}
}

// play runs one line of a transcript.
func play(t *testing.T, c *Core, line string, out *strings.Builder) *Core {
	words := strings.Fields(line)
	args := map[string]string{}
	for _, w := range words[1:] {
		k, v, _ := strings.Cut(w, "=")
		args[k] = v
	}
	num := func(key string, def int64) int64 {
		s, ok := args[key]
		if !ok {
			return def
		}
		n, err := strconv.ParseInt(s, 10, 64)
		must(t, err)
		return n
	}
	list := func(key string) (all []int64) {
		for _, s := range strings.Split(args[key], ",") {
			if s != "" {
				n, err := strconv.ParseInt(s, 10, 64)
				must(t, err)
				all = append(all, n)
			}
		}
		return all
	}
	ev := &Event{
		ID: uint64(num("id", 0)), Generation: uint64(num("gen", 1)), Partition: int(num("part", 0)), Epoch: uint64(num("epoch", 1)),
		Round: num("round", 0), Floor: num("floor", 0), Examples: num("examples", 0), Cut: list("cut"),
		Seq: uint64(num("seq", 1)), Routes: uint64(num("routes", 0)), Shard: int(num("shard", 0)), Copy: uint64(num("copy", 0)),
	}
	for _, p := range list("members") {
		ev.Members = append(ev.Members, int(p))
	}
	for _, s := range list("shards") {
		ev.Shards = append(ev.Shards, s == 1)
	}
	if words[0] == "assign" && ev.Shards == nil {
		ev.Shards = []bool{true}
	}
	for _, e := range list("epochs") {
		ev.Epochs = append(ev.Epochs, uint64(e))
	}
	if r, ok := args["range"]; ok {
		_, err := fmt.Sscanf(r, "%d-%d", &ev.Range.First, &ev.Range.Next)
		must(t, err)
	}
	switch words[0] {
	case "core":
		return NewCore(int(num("staleness", 0)))
	case "state":
		g, ready := c.Generation()
		fmt.Fprintf(out, "generation %d ready %v round %d examples %d cut %v\n", g, ready, c.Round(), c.Examples(), c.Cut())
		return c
	case "assign":
		ev.Kind = Assign
	case "restored":
		ev.Kind = Restored
	case "pull":
		ev.Kind = Pull
	case "push":
		ev.Kind = Push
	case "fence":
		ev.Kind = Fence
	case "snapshot":
		ev.Kind = Snapshot
	case "adopt":
		ev.Kind = Adopt
	case "settle":
		ev.Kind = Settle
	case "copy":
		ev.Kind = Copy
	case "copyrest":
		ev.Kind = CopyRest
	case "fetched":
		ev.Kind = Fetched
	case "settled":
		ev.Kind = Settled
		ev.Ledger = &wire.Ledger{Round: num("round", 0), Examples: num("examples", 0), Epochs: ev.Epochs}
		for _, next := range ev.Cut {
			ev.Ledger.Marks = append(ev.Ledger.Marks, wire.Mark{Floor: next, Next: next})
		}
	default:
		t.Fatalf("unknown event %q", line)
	}
	for _, e := range c.Step(ev) {
		switch e.Kind {
		case Refuse:
			fmt.Fprintf(out, "refuse %d (%s): %v\n", e.ID, kindOf(e.Err), e.Err)
		case Restore:
			fmt.Fprintf(out, "restore generation %d\n", e.Generation)
		case Serve:
			fmt.Fprintf(out, "serve %d\n", e.ID)
		case Apply:
			fmt.Fprintf(out, "apply partition %d %v after %d examples\n", e.Partition, e.Range, e.Before)
		case Accept:
			fmt.Fprintf(out, "accept %d\n", e.ID)
		case Fenced:
			fmt.Fprintf(out, "fenced %d: round %d, applied below %d, buffered %v\n", e.ID, e.Held.Round, e.Held.Applied, e.Held.Buffered)
		case Capture:
			fmt.Fprintf(out, "capture %d\n", e.ID)
		case Fetch:
			fmt.Fprintf(out, "fetch %d: shard %d\n", e.ID, e.Shard)
		case FetchRest:
			fmt.Fprintf(out, "fetch rest %d: shard %d copy %d after round %d at %v\n", e.ID, e.Shard, e.Copy, e.Round, e.Cut)
		case Give:
			fmt.Fprintf(out, "give %d: shard %d copy %d, whole %v\n", e.ID, e.Shard, e.Copy, e.Whole)
		case GiveRest:
			fmt.Fprintf(out, "give rest %d: shard %d copy %d, round %d, %d examples, marks %v, epochs %v\n",
				e.ID, e.Shard, e.Copy, e.Ledger.Round, e.Ledger.Examples, e.Ledger.Marks, e.Ledger.Epochs)
		case Discard, Install, Drop, Forget:
			fmt.Fprintf(out, "%s shard %d\n", map[EffectKind]string{Discard: "discard", Install: "install", Drop: "drop", Forget: "forget"}[e.Kind], e.Shard)
		}
	}
	return c
}

func kindOf(err error) string {
	for name, kind := range map[string]error{
		"fenced": tidemill.ErrFenced, "not ready": tidemill.ErrNotReady, "invalid": tidemill.ErrInvalid, "conflict": tidemill.ErrConflict,
	} {
		if errors.Is(err, kind) {
			return name
		}
	}
	return "no kind"
}
