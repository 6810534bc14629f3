package main

import (
	"fmt"
	"io"

	"github.com/tidemill/tidemill/trainer"
)

// showLoad shows what each parameter server holds, and how many rows are pulled from it and pushed to
// it.
func showLoad(w io.Writer, all []trainer.PSLoad) {
	var rows [][]string
	for _, p := range all {
		rate := "–"
		if p.RowsPerSecond != nil {
			rate = count(int64(*p.RowsPerSecond))
		}
		rows = append(rows, []string{"  " + p.PS, fmt.Sprint(p.Shards), count(p.Rows), rate})
	}
	table(w, "  PS SHARDS ROWS ROWS/S", rows)
}
