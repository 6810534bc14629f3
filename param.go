package tidemill

import (
	"math"

	"github.com/tidemill/tidemill/internal/kernel"
)

// DefaultShards is V, the number of virtual shards of a job unless its spec says otherwise.
const DefaultShards = 64

// BlockSize is how many values of a dense tensor live in one block; blocks, not tensors, are
// spread over shards.
const BlockSize = 1 << 14

// InitKind says how the weight of a row that nobody has trained yet looks.
type InitKind uint8

// Kinds of initial value.
const (
	InitZero     InitKind = iota // all zero
	InitNormal                   // normal, mean 0, standard deviation Scale
	InitUniform                  // uniform in [-Scale, Scale)
	InitConstant                 // Scale
)

// Init is the distribution of initial values. Values are a function of (seed, name, id,
// position) alone, so every process computes the same ones.
type Init struct {
	Kind  InitKind `json:"kind"`
	Scale float32  `json:"scale,omitempty"`
	// From is the first position that Kind applies to; positions before it are zero (an FM
	// row keeps its linear weight at zero and randomises its factors).
	From int `json:"from,omitempty"`
}

// TableSpec describes a sparse table: rows of Dim float32 keyed by 64-bit id.
type TableSpec struct {
	Name string `json:"name"`
	Dim  int    `json:"dim"`
	Init Init   `json:"init"`
	// MaxRows bounds the rows of the whole table over all shards; 0 means no bound. Shard s
	// of V admits MaxRows/V of them, after which its unknown ids share one fallback row.
	MaxRows int64 `json:"max_rows,omitempty"`
	TableChoice
}

// TableChoice says which rows a sparse table has. The zero value: one for every id that was ever
// trained, for good.
type TableChoice struct {
	Admit  Admission `json:"admit,omitzero" yaml:"admit"`
	Expire Expiry    `json:"expire,omitzero" yaml:"expire"`
	// Values is how parameter servers keep the weights in memory: ValuesFloat32 (default) or one of
	// the others, to which a weight is rounded, at random and without bias, whenever it is updated.
	Values string `json:"values,omitempty" yaml:"values"`
}

// Values of a table: optimizer state and averages are float32 in all of them.
const (
	ValuesFloat32  = "float32"
	ValuesBFloat16 = "bfloat16"
	ValuesFloat16  = "float16"
	ValuesInt8     = "int8" // with a power of two for each row
)

// Expiry says which rows of a table go. Each row is looked at once in Every examples of the job,
// at a moment that its id decides: it goes if fewer than Uses batches have updated it since it was
// last looked at. Its first look only begins the count, so a row stays for Every examples at
// least. An id whose row is gone is one that never had any. The zero value keeps all rows.
type Expiry struct {
	Every int64 `json:"every,omitempty" yaml:"every"` // at least 1000
	Uses  int   `json:"uses,omitempty" yaml:"uses"`   // 0: 1
}

// Admission says which ids get a row when they are pushed; the gradients of others are dropped.
// Either by count or by probability. The zero value admits all.
type Admission struct {
	// After: an id gets a row when it is seen for the After-th time, in as many batches, not long
	// ago: sightings are counted in a filter that forgets half of what it has counted after as many
	// sightings of ids without a row as a quarter of its counters. It errs on the side of admitting. 2 to 255.
	After int `json:"after,omitempty" yaml:"after"`
	// Counters is the filter's size in bytes, of the whole table; 0: DefaultCounters.
	Counters int64 `json:"counters,omitempty" yaml:"counters"`
	// Probability: each sighting of an id makes its row with this probability, which is in (0, 1).
	Probability float64 `json:"probability,omitempty" yaml:"probability"`
}

// DefaultCounters is the size of a table's admission filter.
const DefaultCounters = 1 << 22

// TensorSpec describes a dense tensor, stored row-major.
type TensorSpec struct {
	Name  string `json:"name"`
	Shape []int  `json:"shape"`
	Init  Init   `json:"init"`
}

// Len returns the number of values of the tensor.
func (t TensorSpec) Len() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Blocks returns the number of blocks the tensor is stored in.
func (t TensorSpec) Blocks() int { return (t.Len() + BlockSize - 1) / BlockSize }

// Mix is the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection on
// uint64 whose output bits all depend on all input bits.
func Mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	x ^= x >> 31
	return x
}

// Hash is 64-bit FNV-1a finished by Mix. It names things (tables, tensors, members); the
// hash of feature values is internal/feature's.
func Hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(s); i++ {
		h ^= uint64(s[i])
		h *= 1099511628211
	}
	return Mix(h)
}

// ShardOf returns the shard in [0, v) that holds id, the same for every table of a job.
func ShardOf(id uint64, v int) int {
	return int((Mix(id) >> 32) * uint64(v) >> 32)
}

// BlockShard returns the shard in [0, v) that holds block b of the named dense tensor.
func BlockShard(tensor string, b, v int) int {
	return ShardOf(Hash(tensor)+uint64(b)*0x9e3779b97f4a7c15, v)
}

// HomeShard returns the shard in [0, v) that holds what a job learns beside its parameters:
// transform state and progressive metrics.
func HomeShard(v int) int { return ShardOf(Hash("home"), v) }

// Fill writes the initial values of row id (a table) or of the values from position base on
// (id 0, a tensor) to dst. name is Hash of the table's or tensor's name.
func (in Init) Fill(dst []float32, seed, name, id uint64, base int) {
	if in.Kind == InitZero {
		clear(dst)
		return
	}
	if in.Kind == InitConstant {
		for i := range dst {
			dst[i] = 0
			if base+i >= in.From {
				dst[i] = in.Scale
			}
		}
		return
	}
	key := Mix(seed^0x6a09e667f3bcc909) ^ name ^ Mix(id+0x9e3779b97f4a7c15)
	for i := range dst {
		pos := base + i
		if pos < in.From {
			dst[i] = 0
			continue
		}
		u := Mix(key + uint64(pos)*0x9e3779b97f4a7c15)
		switch in.Kind {
		case InitUniform:
			dst[i] = in.Scale * float32(float64(u>>11)/(1<<52)-1)
		default:
			// Box–Muller from two 32-bit halves; the first is kept off zero.
			r := (float64(u>>32) + 0.5) / (1 << 32)
			a := float64(uint32(u)) / (1 << 32)
			dst[i] = in.Scale * float32(math.Sqrt(-2*kernel.Log(r))*kernel.CosPi(2*a))
		}
	}
}
