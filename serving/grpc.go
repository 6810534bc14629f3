package serving

import (
	"context"
	"encoding/binary"
	"math"
	"strconv"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // clients may compress
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/tidemill/tidemill"
	pb "github.com/tidemill/tidemill/serving/servingpb"
)

// Register adds the inference service, health and, unless Config.NoReflection, reflection (v1
// and v1alpha) to a server that internal/rpc made: errors are returned as they are, its
// interceptors turn them into statuses.
func (s *Server) Register(g *grpc.Server) {
	pb.RegisterGRPCInferenceServiceServer(g, &inference{s: s})
	healthpb.RegisterHealthServer(g, s.health)
	if !s.cfg.NoReflection {
		reflection.Register(g)
	}
}

type inference struct {
	pb.UnimplementedGRPCInferenceServiceServer
	s *Server
}

func (g *inference) ServerLive(context.Context, *pb.ServerLiveRequest) (*pb.ServerLiveResponse, error) {
	return &pb.ServerLiveResponse{Live: true}, nil
}

func (g *inference) ServerReady(context.Context, *pb.ServerReadyRequest) (*pb.ServerReadyResponse, error) {
	return &pb.ServerReadyResponse{Ready: g.s.Ready()}, nil
}

func (g *inference) ModelReady(_ context.Context, r *pb.ModelReadyRequest) (*pb.ModelReadyResponse, error) {
	ready, err := g.s.modelReady(r.GetName(), r.GetVersion())
	if err != nil {
		return nil, err
	}
	return &pb.ModelReadyResponse{Ready: ready}, nil
}

func (g *inference) ServerMetadata(context.Context, *pb.ServerMetadataRequest) (*pb.ServerMetadataResponse, error) {
	m := g.s.serverMetadata()
	return &pb.ServerMetadataResponse{Name: m.Name, Version: m.Version, Extensions: m.Extensions}, nil
}

func (g *inference) ModelMetadata(_ context.Context, r *pb.ModelMetadataRequest) (*pb.ModelMetadataResponse, error) {
	m, err := g.s.modelMetadata(r.GetName(), r.GetVersion())
	if err != nil {
		return nil, err
	}
	resp := &pb.ModelMetadataResponse{Name: m.Name, Versions: m.Versions, Platform: m.Platform}
	for _, t := range m.Inputs {
		resp.Inputs = append(resp.Inputs, &pb.ModelMetadataResponse_TensorMetadata{Name: t.Name, Datatype: t.Datatype, Shape: t.Shape})
	}
	for _, t := range m.Outputs {
		resp.Outputs = append(resp.Outputs, &pb.ModelMetadataResponse_TensorMetadata{Name: t.Name, Datatype: t.Datatype, Shape: t.Shape})
	}
	return resp, nil
}

func (g *inference) ModelInfer(ctx context.Context, in *pb.ModelInferRequest) (*pb.ModelInferResponse, error) {
	req, err := fromProto(in)
	if err != nil {
		return nil, err
	}
	resp, err := g.s.infer(ctx, "grpc", req)
	if err != nil {
		return nil, err
	}
	out := &pb.ModelInferResponse_InferOutputTensor{Name: outputName, Datatype: "FP32", Shape: resp.shape()}
	answer := &pb.ModelInferResponse{
		ModelName: resp.model, ModelVersion: strconv.FormatInt(resp.version, 10), Id: in.GetId(),
		Outputs: []*pb.ModelInferResponse_InferOutputTensor{out},
	}
	// Typed contents only to those who sent some: the usual clients read numbers from raw
	// contents alone.
	if len(in.GetRawInputContents()) == 0 {
		out.Contents = &pb.InferTensorContents{Fp32Contents: resp.predictions}
	} else {
		answer.RawOutputContents = [][]byte{rawFloat32(resp.predictions)}
	}
	return answer, nil
}

func rawFloat32(v []float32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

// fromProto converts a request; it keeps the message's slices.
func fromProto(in *pb.ModelInferRequest) (*request, error) {
	r := &request{model: in.GetModelName(), version: in.GetModelVersion()}
	for name, p := range in.GetParameters() {
		if err := r.take(name, fromParameter(p)); err != nil {
			return nil, err
		}
	}
	for _, o := range in.GetOutputs() {
		r.outputs = append(r.outputs, o.GetName())
	}
	raw := in.GetRawInputContents()
	if len(raw) > 0 && len(raw) != len(in.GetInputs()) {
		return nil, tidemill.Invalid("%d raw_input_contents for %d inputs", "send one for each input", len(raw), len(in.GetInputs()))
	}
	for i, t := range in.GetInputs() {
		x := tensor{name: t.GetName(), datatype: t.GetDatatype(), shape: t.GetShape()}
		if len(raw) > 0 {
			if contentsSet(t.GetContents()) > 0 {
				return nil, tidemill.Invalid("input %s has contents, and raw_input_contents are given", "send one of them", quote(x.name))
			}
			if x.raw = raw[i]; x.raw == nil {
				x.raw = []byte{}
			}
		} else {
			var err error
			if x.typed, err = fromContents(t); err != nil {
				return nil, err
			}
		}
		r.inputs = append(r.inputs, x)
	}
	return r, nil
}

func fromParameter(p *pb.InferParameter) parameter {
	switch x := p.GetParameterChoice().(type) {
	case *pb.InferParameter_BoolParam:
		return parameter{kind: 'b', b: x.BoolParam}
	case *pb.InferParameter_Int64Param:
		return parameter{kind: 'i', i: x.Int64Param}
	case *pb.InferParameter_Uint64Param:
		if x.Uint64Param > math.MaxInt64 {
			return parameter{kind: 'i', i: math.MaxInt64}
		}
		return parameter{kind: 'i', i: int64(x.Uint64Param)}
	case *pb.InferParameter_DoubleParam:
		return parameter{kind: 'f'}
	case *pb.InferParameter_StringParam:
		return parameter{kind: 's'}
	}
	return parameter{}
}

// contentsSet is how many of the typed arrays have elements.
func contentsSet(c *pb.InferTensorContents) int {
	n := 0
	for _, l := range [...]int{
		len(c.GetBoolContents()), len(c.GetIntContents()), len(c.GetInt64Contents()), len(c.GetUintContents()), len(c.GetUint64Contents()),
		len(c.GetFp32Contents()), len(c.GetFp64Contents()), len(c.GetBytesContents()),
	} {
		if l > 0 {
			n++
		}
	}
	return n
}

// fromContents converts typed contents, which must be those of the datatype.
func fromContents(t *pb.ModelInferRequest_InferInputTensor) (*values, error) {
	c := t.GetContents()
	d, err := datatypeOf(t.GetDatatype())
	if err != nil {
		return nil, err
	}
	v := new(values)
	used := 0
	switch d.name {
	case "BOOL":
		used = len(c.GetBoolContents())
		v.ints = make([]int64, used)
		for i, b := range c.GetBoolContents() {
			if b {
				v.ints[i] = 1
			}
		}
	case "INT8", "INT16", "INT32":
		used = len(c.GetIntContents())
		v.ints = make([]int64, used)
		for i, x := range c.GetIntContents() {
			v.ints[i] = int64(x)
		}
	case "UINT8", "UINT16", "UINT32":
		used = len(c.GetUintContents())
		v.ints = make([]int64, used)
		for i, x := range c.GetUintContents() {
			v.ints[i] = int64(x)
		}
	case "INT64":
		v.ints = c.GetInt64Contents()
		used = len(v.ints)
	case "UINT64":
		v.uints = c.GetUint64Contents()
		used = len(v.uints)
	case "FP32":
		used = len(c.GetFp32Contents())
		v.floats = make([]float64, used)
		for i, x := range c.GetFp32Contents() {
			v.floats[i] = float64(x)
		}
	case "FP64":
		v.floats = c.GetFp64Contents()
		used = len(v.floats)
	case "BYTES":
		used = len(c.GetBytesContents())
		v.offsets = make([]int32, 1, used+1)
		for _, b := range c.GetBytesContents() {
			if len(v.data)+len(b) > math.MaxInt32 {
				return nil, tidemill.Invalid("input %s has too many bytes", "send smaller batches", quote(t.GetName()))
			}
			v.data = append(v.data, b...)
			v.offsets = append(v.offsets, int32(len(v.data)))
		}
	default:
		return nil, tidemill.Invalid("input %s: datatype %s has no typed contents", "send raw_input_contents", quote(t.GetName()), d.name)
	}
	others := contentsSet(c)
	if used > 0 {
		others--
	}
	if others > 0 {
		return nil, tidemill.Invalid("input %s has contents of another type than its datatype %s", "fill the one array that belongs to the datatype", quote(t.GetName()), d.name)
	}
	if d.kind == kindInt {
		for i, x := range v.ints {
			if x < d.min || x > d.max {
				return nil, tidemill.Invalid("input %s: element %d, %d, is no %s", "", quote(t.GetName()), i, x, d.name)
			}
		}
	}
	return v, nil
}
