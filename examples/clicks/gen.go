//go:build ignore

// Gen writes clicks.csv: made-up people see made-up items and click or do not. Everything is
// drawn from one seed, so running it again gives the same bytes:
//
//	go run gen.go > clicks.csv
//
// A click depends on the item's appeal, on how well the person's taste (two hidden numbers)
// fits the item's, on the device and on the hour. Only the tastes are hidden from the model.
package main

import (
	"bufio"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"time"
)

const (
	rows  = 2000
	users = 40
	items = 24
)

func main() {
	r := rand.New(rand.NewPCG(2026, 11))
	type taste [2]float64
	draw := func() taste { return taste{r.NormFloat64(), r.NormFloat64()} }
	var likes [users]taste
	for u := range likes {
		likes[u] = draw()
	}
	var offers [items]taste
	var appeal [items]float64
	for i := range offers {
		offers[i], appeal[i] = draw(), 1.2*r.NormFloat64()
	}
	categories := []string{"books", "garden", "music", "sport"}
	devices := []string{"phone", "tablet", "desktop"}
	device := map[string]float64{"phone": 0.3, "tablet": 0, "desktop": -0.6}

	w := bufio.NewWriter(os.Stdout)
	fmt.Fprintln(w, "ts,user,item,category,device,hour,clicked")
	at := time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)
	for range rows {
		at = at.Add(time.Duration(r.ExpFloat64() * float64(40*time.Second)))
		u, i := r.IntN(users), r.IntN(items)
		d := devices[r.IntN(len(devices))]
		hour := at.Hour()
		logit := -0.8 + appeal[i] + 1.1*(likes[u][0]*offers[i][0]+likes[u][1]*offers[i][1]) +
			device[d] + 0.5*math.Sin(2*math.Pi*float64(hour)/24)
		clicked := 0
		if r.Float64() < 1/(1+math.Exp(-logit)) {
			clicked = 1
		}
		fmt.Fprintf(w, "%s,u%02d,i%02d,%s,%s,%d,%d\n", at.Format(time.RFC3339), u, i, categories[i%len(categories)], d, hour, clicked)
	}
	if err := w.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
