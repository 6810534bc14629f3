package sim

import (
	"flag"
	"testing"
)

var (
	schedules = flag.Int("schedules", 200, "simulated schedules per staleness")
	onlySeed  = flag.Uint64("seed", 0, "run this seed alone, with a trace")
)

func config(seed uint64, staleness int) Config {
	return Config{
		Seed: seed, Staleness: staleness, Partitions: 1 + int(seed%4), Late: int(seed % 3), Rows: 120, Batch: 1 + int64(seed%5),
		Every: 40, Shards: 8, Workers: 3, PS: 3, Trainers: 2, Servings: 2,
		Crashes: 3, Pauses: 2, Loss: 0.02, Duplicate: 0.02, MaxSteps: 400_000,
	}
}

// calm is the same job without any fault.
func calm(c Config) Config {
	c.Crashes, c.Pauses, c.Loss, c.Duplicate = 0, 0, 0, 0
	return c
}

func TestRandomSchedulesKeepTheLedgerExact(t *testing.T) {
	for _, staleness := range []int{0, 2, -1} {
		for seed := uint64(1); seed <= uint64(*schedules); seed++ {
			if *onlySeed != 0 && seed != *onlySeed {
				continue
			}
			c := config(seed, staleness)
			w := New(c)
			if *onlySeed != 0 {
				w.Trace(t.Logf)
			}
			if err := w.Run(); err != nil {
				t.Fatalf("staleness %d: %v", staleness, err)
			}
			if staleness != 0 {
				continue
			}
			// Same rows, no fault, one of everything: the same bits.
			one := calm(c)
			one.Workers, one.PS, one.Trainers = 1, 1, 1
			ref := New(one)
			// A partition that joined takes part from the round on that the record says.
			ref.log, ref.records.asg.Origins = w.log, w.records.asg.Origins
			if err := ref.Run(); err != nil {
				t.Fatalf("without faults: %v", err)
			}
			a, ok := w.Final()
			b, ok2 := ref.Final()
			if !ok || !ok2 || a != b {
				t.Fatalf("seed %d: faults changed the result: %x, and %x without", seed, a, b)
			}
		}
	}
}
