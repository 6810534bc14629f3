// Package graphfile reads graph files: models that TensorFlow computes, exported from Keras.
// It needs no TensorFlow. What it accepts is checked node by node against a table of ops, so
// that a driver need not defend itself against what a file says of itself.
//
// Decode reads a file. File.Tables and File.Tensors are the parameters that it implies,
// File.Fit joins its inputs to the features of a job. The bytes are described in
// docs/format/graph.md.
package graphfile
