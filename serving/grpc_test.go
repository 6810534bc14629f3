package serving

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tidemill/tidemill/internal/predict/predicttest"
	pb "github.com/tidemill/tidemill/serving/servingpb"
)

// rawOf writes typed contents of one array as raw bytes.
func rawOf(c *pb.InferTensorContents) (b []byte) {
	for _, x := range c.GetFp64Contents() {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
	}
	for _, x := range c.GetFp32Contents() {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	for _, x := range c.GetInt64Contents() {
		b = binary.LittleEndian.AppendUint64(b, uint64(x))
	}
	for _, x := range c.GetBytesContents() {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(x))), x...)
	}
	for _, x := range c.GetBoolContents() {
		if x {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	return b
}

func fromRaw(b []byte) (out []float32) {
	for ; len(b) >= 4; b = b[4:] {
		out = append(out, math.Float32frombits(binary.LittleEndian.Uint32(b)))
	}
	return out
}

func TestInferTypedAndRaw(t *testing.T) {
	w := start(t, Config{Models: []string{"m"}})
	w.publish("m", 4)
	rows := predicttest.Rows(50, 8)
	defer rows.Release()
	want := offline(t, "m", 4, rows)
	ctx := context.Background()

	resp, err := w.client.ModelInfer(ctx, typed("m", rows))
	if err != nil {
		t.Fatal(err)
	}
	if resp.GetModelName() != "m" || resp.GetModelVersion() != "4" || resp.GetId() != "r1" || len(resp.GetRawOutputContents()) != 0 {
		t.Fatalf("response %v", resp)
	}
	if out := resp.GetOutputs()[0]; out.GetName() != "prediction" || out.GetDatatype() != "FP32" || !slices.Equal(out.GetShape(), []int64{50}) ||
		!slices.Equal(out.GetContents().GetFp32Contents(), want) {
		t.Fatalf("output %v, want %v", out, want)
	}
	request := raw("m", rows)
	request.ModelVersion = "4"
	for _, in := range request.Inputs {
		in.Shape = []int64{50, 1}
	}
	request.Outputs = []*pb.ModelInferRequest_InferRequestedOutputTensor{{Name: "prediction"}}
	if resp, err = w.client.ModelInfer(ctx, request); err != nil {
		t.Fatal(err)
	}
	if len(resp.GetRawOutputContents()) != 1 || resp.GetOutputs()[0].GetContents() != nil || !slices.Equal(fromRaw(resp.GetRawOutputContents()[0]), want) {
		t.Fatal("raw answer differs")
	}
	// Other widths of the same values.
	request = typed("m", rows)
	small := &pb.InferTensorContents{}
	for _, x := range request.Inputs[1].Contents.Int64Contents {
		small.IntContents = append(small.IntContents, int32(x))
	}
	request.Inputs[1].Datatype, request.Inputs[1].Contents = "INT16", small
	if resp, err = w.client.ModelInfer(ctx, request); err != nil || !slices.Equal(resp.GetOutputs()[0].GetContents().GetFp32Contents(), want) {
		t.Fatal("INT16:", err)
	}
}

func TestMetadataHealthReflection(t *testing.T) {
	w := start(t, Config{Models: []string{"m"}, Version: "1.2"})
	ctx := context.Background()
	health := healthpb.NewHealthClient(w.conn)
	check := func(service string, want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		r, err := health.Check(ctx, &healthpb.HealthCheckRequest{Service: service})
		if err != nil || r.GetStatus() != want {
			t.Fatalf("health of %q: %v, %v; want %v", service, r.GetStatus(), err, want)
		}
	}
	if r, err := w.client.ServerLive(ctx, &pb.ServerLiveRequest{}); err != nil || !r.GetLive() {
		t.Fatal("not live", err)
	}
	if r, err := w.client.ServerReady(ctx, &pb.ServerReadyRequest{}); err != nil || r.GetReady() {
		t.Fatal("ready without a version", err)
	}
	check("", healthpb.HealthCheckResponse_NOT_SERVING)
	rows := predicttest.Rows(1, 1)
	defer rows.Release()
	if _, err := w.client.ModelInfer(ctx, typed("m", rows)); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "has no published version yet") {
		t.Fatal(err)
	}
	if r, err := w.client.ModelReady(ctx, &pb.ModelReadyRequest{Name: "m"}); err != nil || r.GetReady() {
		t.Fatal("model is ready without a version", err)
	}

	w.publish("m", 3)
	if r, err := w.client.ServerReady(ctx, &pb.ServerReadyRequest{}); err != nil || !r.GetReady() {
		t.Fatal("not ready", err)
	}
	for _, s := range []string{"", inferenceService, "model/m"} {
		check(s, healthpb.HealthCheckResponse_SERVING)
	}
	if _, err := health.Check(ctx, &healthpb.HealthCheckRequest{Service: "nothing"}); status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	if r, err := w.client.ServerMetadata(ctx, &pb.ServerMetadataRequest{}); err != nil || r.GetName() != "tidemill" || r.GetVersion() != "1.2" {
		t.Fatal(r, err)
	}
	m, err := w.client.ModelMetadata(ctx, &pb.ModelMetadataRequest{Name: "m", Version: "champion"})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{m.GetPlatform(), strings.Join(m.GetVersions(), " ")}
	for _, x := range append(m.GetInputs(), m.GetOutputs()...) {
		got = append(got, fmt.Sprint(x.GetName(), x.GetDatatype(), x.GetShape()))
	}
	want := []string{"tidemill_logistic", "3", "priceFP64[-1]", "countINT64[-1]", "cityBYTES[-1]", "flagBOOL[-1]", "predictionFP32[-1]"}
	if !slices.Equal(got, want) {
		t.Fatalf("metadata %q, want %q", got, want)
	}
	for _, c := range []struct {
		name, version string
		want          codes.Code
	}{{"x", "", codes.NotFound}, {"m", "9", codes.NotFound}, {"m", "x", codes.InvalidArgument}, {"", "", codes.InvalidArgument}, {"m", "0", codes.InvalidArgument},
		{"m", "-1", codes.InvalidArgument}, {"m", "9223372036854775807", codes.NotFound}, {"m", "9223372036854775808", codes.InvalidArgument}, {"m", "+3", codes.InvalidArgument}} {
		if _, err := w.client.ModelReady(ctx, &pb.ModelReadyRequest{Name: c.name, Version: c.version}); status.Code(err) != c.want {
			t.Errorf("ModelReady(%q, %q): %v, want %v", c.name, c.version, err, c.want)
		}
		if _, err := w.client.ModelMetadata(ctx, &pb.ModelMetadataRequest{Name: c.name, Version: c.version}); status.Code(err) != c.want {
			t.Errorf("ModelMetadata(%q, %q): %v, want %v", c.name, c.version, err, c.want)
		}
	}
	stream, err := reflectionpb.NewServerReflectionClient(w.conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || !strings.Contains(r.String(), inferenceService) {
		t.Fatal(r, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for _, err = stream.Recv(); err == nil; _, err = stream.Recv() {
	}
}

// Each change makes a good request bad.
func TestBadRequests(t *testing.T) {
	w := start(t, Config{Models: []string{"m"}})
	w.publish("m", 1)
	rows := predicttest.Rows(4, 1)
	defer rows.Release()
	fp64 := func(v ...float64) *pb.InferTensorContents { return &pb.InferTensorContents{Fp64Contents: v} }
	contents := func(r *pb.ModelInferRequest, i int, datatype string, c *pb.InferTensorContents) {
		r.Inputs[i].Datatype, r.Inputs[i].Contents = datatype, c
	}
	shapes := func(s ...int64) func(*pb.ModelInferRequest) {
		return func(r *pb.ModelInferRequest) { r.Inputs[0].Shape = s }
	}
	param := func(name string, p *pb.InferParameter) func(*pb.ModelInferRequest) {
		return func(r *pb.ModelInferRequest) { r.Parameters = map[string]*pb.InferParameter{name: p} }
	}
	str := &pb.InferParameter{ParameterChoice: &pb.InferParameter_StringParam{StringParam: "x"}}
	minus := &pb.InferParameter{ParameterChoice: &pb.InferParameter_Int64Param{Int64Param: -1}}
	typedCases := map[string]func(r *pb.ModelInferRequest){
		"1 shape product wraps": shapes(16, 1<<60+2),
		"2 byte size wraps":     shapes(4, 1<<60+2),
		"3 negative":            shapes(-4),
		"4 variable":            shapes(-1),
		"5 no rows":             shapes(0),
		"5 zero width":          shapes(4, 0),
		"6 scalar":              shapes(),
		"7 rank 9":              shapes(1, 1, 1, 1, 1, 1, 1, 1, 4),
		"7 rank 255":            shapes(make([]int64, 255)...),
		"8 huge":                shapes(math.MaxInt64),
		"two columns":           shapes(2, 2),
		"13 two arrays":         func(r *pb.ModelInferRequest) { r.Inputs[0].Contents.Fp32Contents = []float32{1, 2, 3, 4} },
		"14 wrong array":        func(r *pb.ModelInferRequest) { r.Inputs[0].Datatype = "FP32" },
		"15 300 as INT8": func(r *pb.ModelInferRequest) {
			contents(r, 1, "INT8", &pb.InferTensorContents{IntContents: []int32{1, 2, 300, 4}})
		},
		"15 70000 as UINT16": func(r *pb.ModelInferRequest) {
			contents(r, 1, "UINT16", &pb.InferTensorContents{UintContents: []uint32{1, 2, 70000, 4}})
		},
		"16 too few":        func(r *pb.ModelInferRequest) { contents(r, 0, "FP64", fp64(1, 2, 3)) },
		"16 too many":       func(r *pb.ModelInferRequest) { contents(r, 0, "FP64", fp64(1, 2, 3, 4, 5)) },
		"17 too many rows":  shapes(1025),
		"18 different rows": func(r *pb.ModelInferRequest) { r.Inputs[0].Shape = []int64{3}; contents(r, 0, "FP64", fp64(1, 2, 3)) },
		"19 missing":        func(r *pb.ModelInferRequest) { r.Inputs = r.Inputs[1:] },
		"19 extra": func(r *pb.ModelInferRequest) {
			x := proto.Clone(r.Inputs[0]).(*pb.ModelInferRequest_InferInputTensor)
			x.Name = "zzz"
			r.Inputs = append(r.Inputs, x)
		},
		"19 twice":     func(r *pb.ModelInferRequest) { r.Inputs = append(r.Inputs, r.Inputs[0]) },
		"19 case":      func(r *pb.ModelInferRequest) { r.Inputs[0].Name = "Price" },
		"19 none":      func(r *pb.ModelInferRequest) { r.Inputs = nil },
		"19 long name": func(r *pb.ModelInferRequest) { r.Inputs[0].Name = strings.Repeat("x", 1<<16) },
		"20 unknown output": func(r *pb.ModelInferRequest) {
			r.Outputs = []*pb.ModelInferRequest_InferRequestedOutputTensor{{Name: "y"}}
		},
		"20 output twice": func(r *pb.ModelInferRequest) {
			o := &pb.ModelInferRequest_InferRequestedOutputTensor{Name: "prediction"}
			r.Outputs = append(r.Outputs, o, o)
		},
		"21 FP8":                      func(r *pb.ModelInferRequest) { r.Inputs[0].Datatype = "FP8" },
		"21 empty":                    func(r *pb.ModelInferRequest) { r.Inputs[0].Datatype = "" },
		"21 float32":                  func(r *pb.ModelInferRequest) { r.Inputs[0].Datatype = "float32" },
		"22 FP16 typed":               func(r *pb.ModelInferRequest) { r.Inputs[0].Datatype = "FP16" },
		"28 not UTF-8":                func(r *pb.ModelInferRequest) { r.Inputs[2].Contents.BytesContents[1] = []byte{0xff, 0xfe} },
		"41 NaN":                      func(r *pb.ModelInferRequest) { contents(r, 0, "FP64", fp64(1, math.NaN(), 3, 4)) },
		"41 Inf":                      func(r *pb.ModelInferRequest) { contents(r, 0, "FP64", fp64(1, math.Inf(-1), 3, 4)) },
		"41 1e308":                    func(r *pb.ModelInferRequest) { contents(r, 0, "FP64", fp64(1, 1e308, 3, 4)) },
		"text as number":              func(r *pb.ModelInferRequest) { contents(r, 0, "BYTES", r.Inputs[2].Contents) },
		"number as text":              func(r *pb.ModelInferRequest) { contents(r, 2, "FP64", r.Inputs[0].Contents) },
		"number as bool":              func(r *pb.ModelInferRequest) { contents(r, 3, "FP64", r.Inputs[0].Contents) },
		"bool as number":              func(r *pb.ModelInferRequest) { contents(r, 0, "BOOL", r.Inputs[3].Contents) },
		"fraction for a whole number": func(r *pb.ModelInferRequest) { contents(r, 1, "FP64", fp64(1, 2.5, 3, 4)) },
		"2^63 for a whole number": func(r *pb.ModelInferRequest) {
			contents(r, 1, "UINT64", &pb.InferTensorContents{Uint64Contents: []uint64{1, 1 << 63, 3, 4}})
		},
		"whole number inexact": func(r *pb.ModelInferRequest) {
			contents(r, 0, "INT64", &pb.InferTensorContents{Int64Contents: []int64{1, 1<<53 + 1, 3, 4}})
		},
		"12 raw and contents": func(r *pb.ModelInferRequest) { r.RawInputContents = make([][]byte, 4) },
		"69 priority":         param("priority", str),
		"69 timeout":          param("timeout", minus),
		"69 sequence_start":   param("sequence_start", minus),
		"69 triton_":          param("triton_x", str),
		"version":             func(r *pb.ModelInferRequest) { r.ModelVersion = "v1" },
		"no model":            func(r *pb.ModelInferRequest) { r.ModelName = "" },
	}
	infer := func(t *testing.T, r *pb.ModelInferRequest) {
		t.Helper()
		_, err := w.client.ModelInfer(context.Background(), r)
		if st := status.Convert(err); st.Code() != codes.InvalidArgument || len(st.Message()) > 1100 || st.Message() == "" {
			t.Errorf("%v, want a short InvalidArgument", err)
		}
	}
	for name, spoil := range typedCases {
		t.Run(name, func(t *testing.T) {
			r := typed("m", rows)
			spoil(r)
			infer(t, r)
		})
	}
	prefix := func(n uint32, rest ...byte) []byte { return append(binary.LittleEndian.AppendUint32(nil, n), rest...) }
	for name, spoil := range map[string]func(r *pb.ModelInferRequest){
		"9 short":             func(r *pb.ModelInferRequest) { r.RawInputContents[0] = r.RawInputContents[0][1:] },
		"9 long":              func(r *pb.ModelInferRequest) { r.RawInputContents[0] = append(r.RawInputContents[0], 0) },
		"9 none":              func(r *pb.ModelInferRequest) { r.RawInputContents[0] = nil },
		"10 one for two":      func(r *pb.ModelInferRequest) { r.RawInputContents = r.RawInputContents[:1] },
		"11 one more":         func(r *pb.ModelInferRequest) { r.RawInputContents = append(r.RawInputContents, nil) },
		"12 raw and contents": func(r *pb.ModelInferRequest) { r.Inputs[0].Contents = fp64(1, 2, 3, 4) },
		"23 prefix 0xFFFFFFFF": func(r *pb.ModelInferRequest) {
			r.RawInputContents[2] = slices.Concat(prefix(0xffffffff), make([]byte, 12))
		},
		"24 prefix cut": func(r *pb.ModelInferRequest) {
			r.RawInputContents[2] = slices.Concat(prefix(9, make([]byte, 9)...), []byte{1, 0, 0})
		},
		"25 fewer elements": func(r *pb.ModelInferRequest) {
			r.RawInputContents[2] = slices.Concat(prefix(8, make([]byte, 8)...), prefix(0))
		},
		"26 trailing":           func(r *pb.ModelInferRequest) { r.RawInputContents[2] = append(r.RawInputContents[2], 1) },
		"BOOL 2":                func(r *pb.ModelInferRequest) { r.RawInputContents[3] = []byte{0, 1, 2, 0} },
		"FP16 of wrong length":  func(r *pb.ModelInferRequest) { r.Inputs[0].Datatype = "FP16" },
		"NaN":                   func(r *pb.ModelInferRequest) { r.RawInputContents[0] = rawOf(fp64(1, math.NaN(), 2, 3)) },
		"text read as a number": func(r *pb.ModelInferRequest) { r.RawInputContents[0] = r.RawInputContents[2] },
	} {
		t.Run("raw "+name, func(t *testing.T) {
			r := raw("m", rows)
			spoil(r)
			infer(t, r)
		})
	}
	for name, want := range map[string]codes.Code{"other": codes.NotFound, "../m": codes.NotFound, strings.Repeat("m", 1<<16): codes.NotFound} {
		r := typed("m", rows)
		r.ModelName = name
		if _, err := w.client.ModelInfer(context.Background(), r); status.Code(err) != want {
			t.Errorf("model %.20q: %v, want %v", name, err, want)
		}
	}
	// What looks odd and is fine: embedded NUL, no text, -0, unknown parameters.
	r := typed("m", rows)
	r.Inputs[2].Contents.BytesContents[0] = []byte("a\x00b")
	r.Inputs[2].Contents.BytesContents[1] = nil
	r.Inputs[0].Contents.Fp64Contents[0] = math.Copysign(0, -1)
	r.Inputs[0].Contents.Fp64Contents[1] = 5e-324
	r.Parameters = map[string]*pb.InferParameter{"mine": str, "sequence_id": str, "priority": {ParameterChoice: &pb.InferParameter_Uint64Param{Uint64Param: 1 << 63}}}
	if _, err := w.client.ModelInfer(context.Background(), r); err != nil {
		t.Error(err)
	}
}

func TestConcurrencyBoundAndDeadline(t *testing.T) {
	w := start(t, Config{Models: []string{"m"}, MaxConcurrent: 1})
	w.publish("m", 1)
	rows := predicttest.Rows(1, 1)
	defer rows.Release()
	w.server.slots <- struct{}{}
	_, err := w.client.ModelInfer(context.Background(), typed("m", rows))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "try again") {
		t.Error(err)
	}
	<-w.server.slots
	ctx, cancel := context.WithTimeout(context.Background(), time.Microsecond)
	defer cancel()
	if _, err := w.client.ModelInfer(ctx, typed("m", rows)); status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
	if _, err := w.client.ModelInfer(context.Background(), typed("m", rows)); err != nil {
		t.Error(err)
	}
}

// Versions swap while clients ask: every answer is exactly what the version it names gives.
func TestSwapUnderLoad(t *testing.T) {
	const versions = 12
	w := start(t, Config{Models: []string{"m"}})
	rows := predicttest.Rows(7, 9)
	defer rows.Release()
	want := map[string][]float32{}
	for v := int64(1); v <= versions; v++ {
		want[fmt.Sprint(v)] = offline(t, "m", v, rows)
		w.write(predicttest.Files(t, "m", v))
	}
	w.crown("m", 1)
	w.await(1)
	stop, asked := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			request := raw("m", rows)
			if c%2 == 0 {
				request = typed("m", rows)
			}
			last := 0
			for {
				resp, err := w.client.ModelInfer(context.Background(), request)
				if err != nil {
					t.Error(err)
					return
				}
				got := resp.GetOutputs()[0].GetContents().GetFp32Contents()
				if got == nil {
					got = fromRaw(resp.GetRawOutputContents()[0])
				}
				if !slices.Equal(got, want[resp.GetModelVersion()]) {
					t.Errorf("answer of version %s is not that version's", resp.GetModelVersion())
					return
				}
				var v int
				fmt.Sscan(resp.GetModelVersion(), &v)
				if v < last {
					t.Errorf("went back from version %d to %d", last, v)
					return
				}
				last = v
				if r, err := w.client.ServerReady(context.Background(), &pb.ServerReadyRequest{}); err != nil || !r.GetReady() {
					t.Error("a swap made the server unready", err)
					return
				}
				select {
				case asked <- struct{}{}:
				case <-stop:
					return
				}
			}
		})
	}
	for v := int64(2); v <= versions; v++ {
		w.crown("m", v)
		w.await(v)
		for range 20 { // the load meets this version
			select {
			case <-asked:
			case <-time.After(10 * time.Second):
				t.Fatal("the clients have stopped")
			}
		}
	}
	close(stop)
	wg.Wait()
}
