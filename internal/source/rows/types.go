package rows

import "github.com/apache/arrow-go/v18/arrow"

// named lists the types that people write in schema files and specs.
func named() []struct {
	name string
	t    arrow.DataType
} {
	return []struct {
		name string
		t    arrow.DataType
	}{
		{"int64", arrow.PrimitiveTypes.Int64},
		{"float64", arrow.PrimitiveTypes.Float64},
		{"float32", arrow.PrimitiveTypes.Float32},
		{"int32", arrow.PrimitiveTypes.Int32},
		{"bool", arrow.FixedWidthTypes.Boolean},
		{"text", arrow.BinaryTypes.String},
		{"timestamp", arrow.FixedWidthTypes.Timestamp_us},
	}
}

// TypeNames lists the names that TypeOf knows.
func TypeNames() []string {
	var names []string
	for _, k := range named() {
		names = append(names, k.name)
	}
	return names
}

// TypeOf returns the type that people call name, or nil. A timestamp is one of microseconds in
// UTC.
func TypeOf(name string) arrow.DataType {
	for _, k := range named() {
		if k.name == name {
			return k.t
		}
	}
	return nil
}

// TypeName returns what people call t: a name that TypeOf knows, "timestamp" for any unit of
// one, or else Arrow's name.
func TypeName(t arrow.DataType) string {
	for _, k := range named() {
		if arrow.TypeEqual(k.t, t) {
			return k.name
		}
	}
	if t.ID() == arrow.TIMESTAMP {
		return "timestamp"
	}
	return t.String()
}
