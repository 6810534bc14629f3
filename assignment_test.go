package tidemill

import "testing"

func TestOriginOfAPartition(t *testing.T) {
	a := Assignment{Spec: Spec{Stream: StreamSpec{Topic: "t", Offsets: []int64{7, 9}}}}
	a.Origins = []Origin{{}, {}, {Topic: "dead", Partition: 0, First: 3}}
	for p, want := range []Origin{{"t", 0, 7}, {"t", 1, 9}, {"dead", 0, 3}, {"t", 3, 0}} {
		if got := a.Origin(p); got != want {
			t.Errorf("partition %d is read from %v, not from %v", p, got, want)
		}
	}
}
