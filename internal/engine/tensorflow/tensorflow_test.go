//go:build tensorflow

package tensorflow_test

import (
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/engine/enginetest"
	"github.com/tidemill/tidemill/internal/engine/tensorflow"
)

var kinds = []string{tidemill.Linear, tidemill.Logistic, tidemill.Softmax, tidemill.FM, tidemill.MLP, tidemill.WideDeep, tidemill.DeepFM, tidemill.DCN}

func driver(t testing.TB) engine.Driver {
	t.Helper()
	d := tensorflow.Driver()
	if d.Err != nil {
		t.Fatal(d.Err)
	}
	return d
}

func TestConformance(t *testing.T) {
	d := driver(t)
	enginetest.Suite{
		Kinds: kinds,
		Compile: func(s *tidemill.Spec, shape engine.Shape) (engine.Model, error) {
			return d.Compile(s, shape, engine.Options{})
		},
	}.Run(t)
}
