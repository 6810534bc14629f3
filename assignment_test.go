package tidemill

import "testing"

func TestOriginOfAPartition(t *testing.T) {
	a := Assignment{Spec: Spec{Stream: StreamSpec{Topic: "t", Offsets: []int64{7, 9}}, Train: TrainSpec{End: []int64{0, 20}}}}
	a.Origins = []Origin{{}, {}, {Topic: "dead", Partition: 0, First: 3}}
	for p, want := range []Origin{
		{Topic: "t", First: 7}, {Topic: "t", Partition: 1, First: 9, End: 20}, {Topic: "dead", First: 3}, {Topic: "t", Partition: 3},
	} {
		if got := a.Origin(p); got != want {
			t.Errorf("partition %d is read from %v, not from %v", p, got, want)
		}
	}
}
