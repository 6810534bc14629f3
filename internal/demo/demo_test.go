package demo

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"testing"
	"time"
)

func TestIntrusionShort(t *testing.T) {
	w, err := Find("intrusion")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	res, err := Run(ctx, Config{
		Workload: w, DataDir: t.TempDir(), Rows: 5000, Rate: 2500,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.MarshalIndent(res, "", " ")
	t.Logf("%s", b)
	if res.Examples != 5000 {
		t.Errorf("examples = %d", res.Examples)
	}
}
