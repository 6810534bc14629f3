// Package infer asks a serving endpoint for predictions over the Open Inference Protocol, as
// any other client would: the demo, `tidemill predict` and tests use it.
package infer

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"google.golang.org/grpc"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/serving/servingpb"
)

// Client asks one endpoint. It is safe for concurrent use.
type Client struct {
	rpc servingpb.GRPCInferenceServiceClient
}

// New returns a client over conn; the caller closes conn.
func New(conn grpc.ClientConnInterface) *Client {
	return &Client{servingpb.NewGRPCInferenceServiceClient(conn)}
}

// Columns returns the names of the columns that a model wants, in its order.
func (c *Client) Columns(ctx context.Context, model string) ([]string, error) {
	m, err := c.rpc.ModelMetadata(ctx, &servingpb.ModelMetadataRequest{Name: model})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, in := range m.Inputs {
		names = append(names, in.Name)
	}
	return names, nil
}

// Input is a column that a model wants, with the datatype of its tensor.
type Input struct{ Name, Datatype string }

// Inputs returns the columns that a version of a model wants; version "" is the champion.
func (c *Client) Inputs(ctx context.Context, model, version string) ([]Input, error) {
	m, err := c.rpc.ModelMetadata(ctx, &servingpb.ModelMetadataRequest{Name: model, Version: version})
	if err != nil {
		return nil, err
	}
	var in []Input
	for _, t := range m.Inputs {
		in = append(in, Input{t.Name, t.Datatype})
	}
	return in, nil
}

// Answer is predictions with the version that made them.
type Answer struct {
	Version     int64
	Predictions []float32 // [rows × Outputs]
	Outputs     int
}

// Predict sends the named columns of rows; version "" is the champion.
func (c *Client) Predict(ctx context.Context, model, version string, columns []string, rows arrow.RecordBatch) (Answer, error) {
	req := &servingpb.ModelInferRequest{ModelName: model, ModelVersion: version}
	for _, name := range columns {
		at := rows.Schema().FieldIndices(name)
		if len(at) == 0 {
			return Answer{}, tidemill.Invalid("the rows have no column %q", "the model wants it", name)
		}
		datatype, raw, err := encode(rows.Column(at[0]))
		if err != nil {
			return Answer{}, fmt.Errorf("column %q: %w", name, err)
		}
		req.Inputs = append(req.Inputs, &servingpb.ModelInferRequest_InferInputTensor{
			Name: name, Datatype: datatype, Shape: []int64{rows.NumRows()},
		})
		req.RawInputContents = append(req.RawInputContents, raw)
	}
	resp, err := c.rpc.ModelInfer(ctx, req)
	if err != nil {
		return Answer{}, err
	}
	if len(resp.Outputs) != 1 || len(resp.RawOutputContents) != 1 || len(resp.RawOutputContents[0])%4 != 0 {
		return Answer{}, fmt.Errorf("the answer has %d outputs: %w", len(resp.Outputs), tidemill.ErrCorrupt)
	}
	v, err := strconv.ParseInt(resp.ModelVersion, 10, 64)
	if err != nil {
		return Answer{}, fmt.Errorf("the answer names version %q: %w", resp.ModelVersion, tidemill.ErrCorrupt)
	}
	a := Answer{Version: v, Outputs: 1}
	if s := resp.Outputs[0].Shape; len(s) == 2 {
		a.Outputs = int(s[1])
	}
	raw := resp.RawOutputContents[0]
	a.Predictions = make([]float32, len(raw)/4)
	for i := range a.Predictions {
		a.Predictions[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return a, nil
}

// encode returns a column as a raw tensor.
func encode(col arrow.Array) (datatype string, raw []byte, err error) {
	if n := col.NullN(); n > 0 {
		return "", nil, tidemill.Invalid("%d values are missing", "a request cannot carry nulls", n)
	}
	u64 := func(f func(i int) uint64) []byte {
		b := make([]byte, 0, 8*col.Len())
		for i := range col.Len() {
			b = binary.LittleEndian.AppendUint64(b, f(i))
		}
		return b
	}
	switch a := col.(type) {
	case *array.Int64:
		return "INT64", u64(func(i int) uint64 { return uint64(a.Value(i)) }), nil
	case *array.Int32:
		return "INT64", u64(func(i int) uint64 { return uint64(int64(a.Value(i))) }), nil
	case *array.Float64:
		return "FP64", u64(func(i int) uint64 { return math.Float64bits(a.Value(i)) }), nil
	case *array.Float32:
		b := make([]byte, 0, 4*col.Len())
		for i := range col.Len() {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(a.Value(i)))
		}
		return "FP32", b, nil
	case *array.Boolean:
		b := make([]byte, col.Len())
		for i := range b {
			if a.Value(i) {
				b[i] = 1
			}
		}
		return "BOOL", b, nil
	case *array.String:
		var b []byte
		for i := range col.Len() {
			s := a.Value(i)
			b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
			b = append(b, s...)
		}
		return "BYTES", b, nil
	case *array.Timestamp:
		// As text: a number would be one of the model's column's unit, which is not known here.
		unit := a.DataType().(*arrow.TimestampType).Unit
		var b []byte
		for i := range col.Len() {
			s := a.Value(i).ToTime(unit).UTC().Format(time.RFC3339Nano)
			b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
			b = append(b, s...)
		}
		return "BYTES", b, nil
	}
	return "", nil, tidemill.Invalid("values of type %s cannot be sent", "send numbers, text or booleans", col.DataType())
}
