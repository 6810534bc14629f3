package snapshot

import (
	"fmt"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/tidemill/tidemill"
)

// decode puts the contents of one verified blob of a version where they belong.
func (v *VersionFiles) decode(info Blob, data []byte) error {
	switch info.Kind {
	case KindTable:
		// By position: other goroutines fill in the other tables meanwhile.
		for i := range v.Tables {
			if v.Tables[i].Name == info.Table {
				return v.Tables[i].decode(info, data)
			}
		}
		return fmt.Errorf("it holds table %q, which the version lacks", clip(info.Table))
	case KindDense:
		return decodeTensors(v.Tensors, data)
	case KindExpected:
		return v.Probes.decode(info, data)
	case KindProbes:
		v.Probes.Rows = data
	case KindTransforms:
		v.Transforms = data
	case KindSchema:
		v.SchemaIPC = data
	default:
		return fmt.Errorf("kind %q is not known", clip(info.Kind))
	}
	return nil
}

func (t *Frozen) decode(info Blob, data []byte) error {
	f, err := openArrow(data, frozenTableSchema(t.TableSpec))
	if err != nil {
		return err
	}
	ids, weights := make([]uint64, 0, info.Rows), make([]float32, 0, min(info.Rows*int64(t.Dim), info.Bytes/4))
	for i := range f.batches() {
		err := f.read(i, func(rec arrow.RecordBatch) error {
			ids = append(ids, rec.Column(0).(*array.Uint64).Uint64Values()...)
			weights = append(weights, vectorValues(rec.Column(1), t.Dim)...)
			return nil
		})
		if err != nil {
			return err
		}
	}
	if int64(len(ids)) != info.Rows || len(weights) != len(ids)*t.Dim {
		return fmt.Errorf("it has %d ids and %d weights, and %d rows were written", len(ids), len(weights), info.Rows)
	}
	for i := 1; i < len(ids); i++ {
		if ids[i] <= ids[i-1] {
			return fmt.Errorf("%w: ids are not ascending", errShape)
		}
	}
	t.IDs, t.Weights = ids, weights
	return nil
}

// decodeTensors fills in the values of tensors. Blocks come in order, none missing.
func decodeTensors(tensors []FrozenTensor, data []byte) error {
	f, err := openArrow(data, frozenTensorSchema())
	if err != nil {
		return err
	}
	for i := range f.batches() {
		err := f.read(i, func(rec arrow.RecordBatch) error {
			names := rec.Column(0).(*array.String)
			block, first := rec.Column(1).(*array.Int32).Int32Values(), rec.Column(2).(*array.Int64).Int64Values()
			for r := range int(rec.NumRows()) {
				k := slices.IndexFunc(tensors, func(t FrozenTensor) bool { return t.Name == names.Value(r) })
				if k < 0 {
					return fmt.Errorf("it holds tensor %q, which the version lacks", clip(names.Value(r)))
				}
				t, values := &tensors[k], listValues(rec.Column(3), r)
				at := len(t.Values)
				if first[r] != int64(at) || int64(block[r])*tidemill.BlockSize != int64(at) || len(values) == 0 ||
					len(values) != min(tidemill.BlockSize, t.Len()-at) {
					return fmt.Errorf("block %d of tensor %q has %d values from %d on", block[r], t.Name, len(values), first[r])
				}
				t.Values = append(t.Values, values...)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Probes) decode(info Blob, data []byte) error {
	f, err := openArrow(data, expectedSchema())
	if err != nil {
		return err
	}
	for i := range f.batches() {
		err := f.read(i, func(rec arrow.RecordBatch) error {
			p.Expected = append(p.Expected, rec.Column(0).(*array.Float32).Float32Values()...)
			return nil
		})
		if err != nil {
			return err
		}
	}
	if int64(len(p.Expected)) != info.Rows {
		return fmt.Errorf("it has %d predictions, and %d were written", len(p.Expected), info.Rows)
	}
	return nil
}
