//go:build tensorflow

package trial

import (
	"os"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
)

// A good graph passes its trial; one that the job does not fit says why.
func TestTensorFlowGraph(t *testing.T) {
	graph, err := os.ReadFile("../graphfile/testdata/ratings.graph")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := model.EncodeSchema(arrow.NewSchema([]arrow.Field{
		{Name: "user", Type: arrow.PrimitiveTypes.Int64}, {Name: "item", Type: arrow.BinaryTypes.String},
		{Name: "age", Type: arrow.PrimitiveTypes.Float64}, {Name: "hour", Type: arrow.PrimitiveTypes.Float64},
		{Name: "click", Type: arrow.PrimitiveTypes.Int64},
	}, nil))
	if err != nil {
		t.Fatal(err)
	}
	spec := &tidemill.Spec{
		Model: "m", Engine: "tensorflow", Architecture: tidemill.Architecture{Kind: tidemill.Graph, File: "ratings.graph"},
		Label:    tidemill.LabelSpec{Column: "click", Type: tidemill.Binary, Positive: []string{"1"}},
		Features: []tidemill.FeatureSpec{{Column: "user", Hash: &tidemill.HashSpec{}}, {Column: "item"}, {Column: "age"}, {Column: "hour"}},
		Optimizer: tidemill.OptimizerSpec{
			Sparse: tidemill.OptimizerChoice{Kind: tidemill.Adagrad}, Dense: tidemill.OptimizerChoice{Kind: tidemill.Adam},
		},
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), program, []string{"child", "try"}, spec, schema, graph); err != nil {
		t.Error(err)
	}
	spec.Features = spec.Features[1:]
	if err := Run(t.Context(), program, []string{"child", "try"}, spec, schema, graph); err == nil || !strings.Contains(err.Error(), `"user"`) {
		t.Errorf("error %v", err)
	}
}
